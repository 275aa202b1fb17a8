"""The convolution with its own weight gradient against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.network.convolution import FEW_CHANNELS, conv3x3_on_cpu, hook, kernel_gradient
from ddpm_jax.network.layers import conv3x3


def plain(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 4)])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (FEW_CHANNELS, 80), (72, FEW_CHANNELS)])
def test_its_gradients_are_those_of_the_plain_convolution(draw, size, inputs, outputs):
    x, kernel, weights = (
        jnp.asarray(draw.normal(size=shape), jnp.float32)
        for shape in ((3, *size, inputs), (3, 3, inputs, outputs), (3, *size, outputs))
    )

    def gradients(conv):
        return jax.jit(jax.grad(lambda x, kernel: jnp.sum(conv(x, kernel) * weights), argnums=(0, 1)))(x, kernel)

    for own, expected in zip(gradients(conv3x3_on_cpu), gradients(plain), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(conv3x3_on_cpu(x, kernel), plain(x, kernel))


def test_the_unet_uses_it_on_a_cpu():
    conv = conv3x3(4, jnp.float32, "conv")
    assert jax.default_backend() != "cpu" or conv.conv_general_dilated is hook
    with pytest.raises(AssertionError):
        hook(jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 3, 4)), (2, 2), "SAME")


def test_the_kernel_gradient_is_the_sum_over_shifted_pixels(draw):
    x, gradient = draw.normal(size=(2, 3, 4, 2)).astype(np.float32), draw.normal(size=(2, 3, 4, 5)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = [
        [np.einsum("bhwi,bhwo->io", padded[:, i : i + 3, j : j + 4], gradient) for j in range(3)] for i in range(3)
    ]
    np.testing.assert_allclose(kernel_gradient(x, gradient), np.array(expected), rtol=1e-5, atol=1e-5)
