import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.network.doubling import doubling_conv3x3_on_cpu, upsample
from tests.network.test_convolution import plain


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 4)])
def test_the_doubling_convolution_equals_upsampling_then_convolving(draw, size, dtype):
    height, width = size
    x, kernel, weights = (
        jnp.asarray(draw.normal(size=shape), dtype)
        for shape in ((2, *size, 5), (3, 3, 5, 6), (2, 2 * height, 2 * width, 6))
    )

    def value_and_gradients(conv):
        value = jax.jit(conv)(x, kernel)
        return value, *jax.jit(jax.grad(lambda x, k: jnp.sum(conv(x, k) * weights), argnums=(0, 1)))(x, kernel)

    at_once = value_and_gradients(doubling_conv3x3_on_cpu)
    expected = value_and_gradients(lambda x, kernel: plain(upsample(x), kernel))
    for own, other in zip(at_once, expected, strict=True):
        assert own.dtype == other.dtype == dtype
        tolerance = 1e-5 if dtype == jnp.float32 else 0.02
        np.testing.assert_allclose(own, other, atol=tolerance * np.abs(other.astype(np.float32)).max())
