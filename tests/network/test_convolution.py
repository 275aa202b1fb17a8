"""The convolution with its own weight gradient against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.network.convolution import FEW_CHANNELS, conv3x3_on_cpu, kernel_gradient
from ddpm_jax.network.layers import conv3x3, doubling_conv3x3, same_size_on_cpu, twice_the_size_on_cpu
from ddpm_jax.network.unet import UNet, init_params


def plain(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 4)])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (FEW_CHANNELS, 80), (72, FEW_CHANNELS)])
def test_gradients_equal_those_of_the_plain_convolution(draw, size, inputs, outputs):
    x, kernel, weights = (
        jnp.asarray(draw.normal(size=shape), jnp.float32)
        for shape in ((3, *size, inputs), (3, 3, inputs, outputs), (3, *size, outputs))
    )

    def gradients(conv):
        return jax.jit(jax.grad(lambda x, kernel: jnp.sum(conv(x, kernel) * weights), argnums=(0, 1)))(x, kernel)

    for own, expected in zip(gradients(conv3x3_on_cpu), gradients(plain), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(conv3x3_on_cpu(x, kernel), plain(x, kernel))


def test_layers_use_the_cpu_convolutions_on_a_cpu():
    assert conv3x3(4, jnp.float32, "conv").conv_general_dilated is same_size_on_cpu
    assert doubling_conv3x3(4, jnp.float32, "conv").conv_general_dilated is twice_the_size_on_cpu
    for hook in (same_size_on_cpu, twice_the_size_on_cpu):
        with pytest.raises(AssertionError):
            hook(jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 3, 4)), (2, 2), "SAME")


def test_parameters_have_the_same_names_on_every_platform(monkeypatch):
    unet = UNet(out_channels=1, channels=4, multipliers=(1, 2), blocks=1, attention_resolutions=(), norm_groups=2)

    def names() -> set[str]:
        params = jax.eval_shape(lambda: init_params(unet, jax.random.key(0), 4, 1))
        return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)}

    on_cpu = names()
    assert {"up_1_upsample/kernel", "down_0_downsample/kernel", "conv_in/bias", "middle_attention/q/kernel"} <= on_cpu
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert names() == on_cpu


def test_the_kernel_gradient_is_the_sum_over_shifted_pixels(draw):
    x, gradient = draw.normal(size=(2, 3, 4, 2)).astype(np.float32), draw.normal(size=(2, 3, 4, 5)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = [
        [np.einsum("bhwi,bhwo->io", padded[:, i : i + 3, j : j + 4], gradient) for j in range(3)] for i in range(3)
    ]
    np.testing.assert_allclose(kernel_gradient(x, gradient), np.array(expected), rtol=1e-5, atol=1e-5)
