"""A 3x3 convolution of an image upsampled by 2 that never forms the upsampled image: 2.25 times less work, for CPUs.

The upsampled image repeats each pixel 2x2 times, so a 3x3 kernel covers only 2x2 different pixels. Which taps fall on
the same pixel depends on whether the row and column of the output are even or odd: four 2x2 convolutions of the small
image, whose kernels are sums of taps of the 3x3 kernel, give the four phases of the output.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ddpm_jax.network.convolution import Kernel, conv3x3_on_cpu
from ddpm_jax.shapes import Features

TAPS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
"""[parity, pixel, tap]: 1 where a tap falls on a pixel, at even and at odd positions along one axis."""


def upsample(x: Features) -> Features:
    """Repeats each pixel 2x2 times (nearest neighbour), by broadcasting: the gather of jax.image.resize is slower."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x.reshape(batch, height, 1, width, 1, channels), (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


@jax.custom_vjp
def doubling_conv3x3_on_cpu(x: Features, kernel: Kernel) -> Features:
    """conv3x3(upsample(x)), from [batch, height, width, inputs] to [batch, 2 height, 2 width, outputs]."""
    return polyphase_conv(x, kernel)


def polyphase_conv(x: Features, kernel: Kernel) -> Features:
    """The four phases of the output, each a 2x2 convolution of the small image, interleaved."""
    batch, height, width, _ = x.shape
    taps = jnp.asarray(TAPS, kernel.dtype)
    kernels = jnp.einsum("rpi,cqj,ijxy->rcpqxy", taps, taps, kernel)

    def quarter(row: int, column: int) -> Float[Array, "batch height width outputs"]:
        """The pixels of the output at rows and columns of these parities."""
        pads = ((1 - row, row), (1 - column, column))
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            jnp.asarray(x), kernels[row, column], (1, 1), pads, dimension_numbers=dimensions
        )

    rows = [jnp.stack([quarter(row, column) for column in (0, 1)], axis=3) for row in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, -1)


def _forward(x: Features, kernel: Kernel) -> tuple[Features, tuple[Features, Kernel]]:
    return doubling_conv3x3_on_cpu(x, kernel), (x, kernel)


def _backward(residuals: tuple[Features, Kernel], gradient: Features) -> tuple[Features, Kernel]:
    x, kernel = residuals
    _, towards_x = jax.vjp(lambda x: polyphase_conv(x, kernel), x)
    # The kernel gradient is faster on the upsampled image: few, long products (`convolution.py`).
    _, towards_kernel = jax.vjp(lambda kernel: conv3x3_on_cpu(upsample(x), kernel), kernel)
    return *towards_x(gradient), *towards_kernel(gradient)


doubling_conv3x3_on_cpu.defvjp(_forward, _backward)
