"""The 3x3 convolution with a weight gradient that is fast on CPUs.

The gradient is a sum over batch, rows and columns of products of inputs and output gradients, for nine shifts. XLA
computes it as one convolution whose inner products run only over the batch, and are too short for small batches. Here
they run over batch and columns, and only the rows are left to a convolution: the copies for the three column shifts pay
off from 64 channels on (docs/benchmarks.md). Accelerators have their own kernels for it. Forward-mode derivatives
(jax.jvp) are not defined.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddpm_jax.shapes import Features

FEW_CHANNELS = 64
"""With fewer, XLA's own weight gradient is faster."""

Kernel = Float[Array, "3 3 _ _"]


@jax.custom_vjp
def conv3x3_on_cpu(x: Features, kernel: Kernel) -> Features:
    """Convolves [batch, height, width, inputs] at stride 1, zero-padded to the same size."""
    return _convolve(x, kernel)


def _convolve(x: Features, kernel: Kernel) -> Features:
    return jax.lax.conv_general_dilated(
        jnp.asarray(x), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _forward(x: Features, kernel: Kernel) -> tuple[Features, tuple[Features, Kernel]]:
    return conv3x3_on_cpu(x, kernel), (x, kernel)


def _backward(residuals: tuple[Features, Kernel], gradient: Features) -> tuple[Features, Kernel]:
    x, kernel = residuals
    # The input gradient is a convolution with the rotated kernel.
    dx = _convolve(gradient, rotate_180(kernel))
    inputs, outputs = kernel.shape[2:]
    if min(inputs, outputs) < FEW_CHANNELS:
        _, differentiate = jax.vjp(lambda k: _convolve(x, k), kernel)
        (dkernel,) = differentiate(gradient)
    elif inputs <= outputs:
        dkernel = kernel_gradient(x, gradient)
    else:
        # The smaller of the two is copied; exchanging x and gradient mirrors the shifts.
        dkernel = rotate_180(kernel_gradient(gradient, x))
    return dx, dkernel


conv3x3_on_cpu.defvjp(_forward, _backward)


def kernel_gradient(x: Features, gradient: Features) -> Kernel:
    """The sum over all pixels p of x[p + shift] gradient[p], for the nine shifts in -1..1."""
    batch, height, width, inputs = x.shape
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0))).transpose(3, 1, 0, 2)
    shifted = jnp.concatenate([padded[..., j : j + width] for j in range(3)])
    rows = jax.lax.conv_general_dilated(
        shifted.reshape(3 * inputs, height, batch * width),
        jnp.asarray(gradient).transpose(1, 0, 2, 3).reshape(height, batch * width, -1),
        (1,),
        [(1, 1)],
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    return rows.reshape(3, inputs, 3, -1).transpose(2, 0, 1, 3)


def rotate_180(kernel: Kernel) -> Kernel:
    """Rotates a kernel by 180 degrees and swaps its inputs and outputs."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def as_conv_general_dilated(convolve: Callable[[Features, Kernel], Features]) -> Callable[..., Features]:
    """Wraps a 3x3 convolution at stride 1 with "SAME" padding as the conv_general_dilated argument of nn.Conv."""

    def hook(x: Features, kernel: Kernel, strides: Any, padding: Any, **others: Any) -> Features:
        plain = {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1, "precision": None}
        assert tuple(strides) == (1, 1) and padding == "SAME", (strides, padding)
        assert all(others.get(name, value) == value for name, value in plain.items()), others
        return convolve(x, kernel)

    return hook
