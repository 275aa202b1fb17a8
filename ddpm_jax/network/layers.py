"""The layers of the U-Net: time embedding, normalisation, residual block, self-attention, resampling.

All operate on [batch, height, width, channels]; parameters are float32, activations have the dtype of the module, and
the statistics of norms and the softmax are always float32.
"""

import math
import zlib
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ddpm_jax.network import winograd
from ddpm_jax.shapes import AnyArray, Features, ImageKeys, OneKey

Resample = Literal["none", "down", "up"]
Convolution = Literal["auto", "direct"]
Rows = Float[AnyArray, "... channels"]

# Ho et al.'s code: fan-average uniform everywhere, and zero for the last layer of each residual branch, so that
# initially every block is the identity and the network predicts zero.
kernel_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
zero_init = nn.initializers.zeros_init()


def time_embedding(n: Int[Array, "batch"], dim: int, shift: int = 1) -> Float[Array, "batch dim"]:
    """Sines, then cosines, of n at dim / 2 frequencies from 1 down to 1 / 10000, as in Ho et al.'s code.

    n: 0-based time, t - 1; dim: even and at least 4. With shift 0, as in Vaswani et al. 2017 and ADM, the last
    frequency is slightly above 1 / 10000.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - shift))
    angles = n.astype(jnp.float32).reshape(-1, 1) * frequencies.reshape(1, -1)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def over_pixels(x: Float[Array, "batch channels"]) -> Float[Array, "batch 1 1 channels"]:
    """One vector per image, with axes of length 1 for broadcasting over its pixels."""
    return jnp.expand_dims(x, (1, 2))


def downsample(x: Features) -> Features:
    """Averages 2x2 pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def upsample(x: Features) -> Features:
    """Repeats each pixel 2x2 times (nearest neighbour), by broadcasting: the gather of jax.image.resize is slower."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x.reshape(batch, height, 1, width, 1, channels), (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


RESAMPLE: dict[Resample, Callable[[Features], Features]] = {"none": lambda x: x, "down": downsample, "up": upsample}


def conv3x3(
    channels: int, dtype: DTypeLike, name: str, *, last: bool = False, convolution: Convolution = "auto"
) -> nn.Conv:
    """A 3x3 convolution that keeps the size; last: initialise to zero; convolution: see `model.convolution`."""
    init = zero_init if last else kernel_init
    exact = convolution == "direct" or jax.config.jax_default_matmul_precision in ("highest", "float32")
    own = None if exact else winograd.conv_general_dilated
    return nn.Conv(channels, (3, 3), padding="SAME", dtype=dtype, kernel_init=init, conv_general_dilated=own, name=name)


def halving_conv3x3(channels: int, dtype: DTypeLike, name: str, padding: int) -> nn.Conv:
    """A 3x3 convolution at stride 2 with zero padding: `padding` above and on the left, 1 below and on the right.

    Padding 0 is TensorFlow's "SAME" for even sizes, as in Ho et al.'s code; padding 1 is usual in PyTorch.
    """
    pads = ((padding, 1), (padding, 1))
    return nn.Conv(channels, (3, 3), strides=2, padding=pads, dtype=dtype, kernel_init=kernel_init, name=name)


def dense(
    channels: int, dtype: DTypeLike, name: str, *, last: bool = False, use_bias: bool = True
) -> Callable[[Rows], Array]:
    """A linear map of the last axis (a 1x1 convolution on images); last: initialise to zero.

    The other axes are flattened, which is free: otherwise XLA on CPU transposes the operands of the kernel gradient.
    """
    init = zero_init if last else kernel_init
    layer = nn.Dense(channels, use_bias=use_bias, dtype=dtype, kernel_init=init, name=name)

    def by_rows(x: Rows) -> Array:
        return jnp.asarray(layer(x.reshape(-1, x.shape[-1]))).reshape(*x.shape[:-1], channels)

    return by_rows


class GroupNorm(nn.Module):
    """Group normalisation, Wu & He 2018, with statistics in float32.

    Means are taken over the pixels of each channel, then over the channels of each group, and applied as one scale and
    one shift per channel: on CPU this takes three quarters of the time of nn.GroupNorm.
    """

    groups: int
    eps: float

    @nn.compact
    def __call__(self, x: Features) -> Features:
        batch, _, _, channels = x.shape
        gamma = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        beta = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        pixels = jnp.asarray(x, jnp.float32)

        def group_mean(per_channel: Float[Array, "batch channels"]) -> Float[Array, "batch channels"]:
            means = per_channel.reshape(batch, self.groups, -1).mean(axis=-1, keepdims=True)
            return jnp.broadcast_to(means, (batch, self.groups, channels // self.groups)).reshape(batch, channels)

        mean = group_mean(jnp.mean(pixels, axis=(1, 2)))
        # The variance is the mean of (x - s)^2 minus (mean - s)^2 for any s, which needs no derivative. With s = 0 the
        # difference would lose a variance that is small beside the mean; s = mean would need one more pass over x.
        s = jax.lax.stop_gradient(group_mean(pixels[:, 0, 0, :]))
        variance = group_mean(jnp.mean((pixels - over_pixels(s)) ** 2, axis=(1, 2))) - (mean - s) ** 2
        scale = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + self.eps) * gamma.reshape(1, -1)
        shift = beta.reshape(1, -1) - mean * scale
        return (pixels * over_pixels(scale) + over_pixels(shift)).astype(x.dtype)


def dropout(x: Features, rate: float, keys: ImageKeys, layer: str) -> Features:
    """Dropout, Srivastava et al. 2014, with a mask for each image that depends on its key and the layer alone.

    So a device draws the masks of its images without regard to the others.
    """
    number = zlib.crc32(layer.encode())

    def kept(key: OneKey) -> Bool[Array, "height width channels"]:
        return jax.random.bernoulli(jax.random.fold_in(key, number), 1.0 - rate, x.shape[1:])

    return jnp.where(jax.vmap(kept)(keys), x / (1.0 - rate), 0.0)


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, + time; norm, SiLU, dropout, conv; + input: Ho et al. 2020, appendix B.

    scale_shift: the embedding scales and shifts the second norm instead of being added (Nichol & Dhariwal 2021).
    resample: halves or doubles the size of both branches before the first convolution (Dhariwal & Nichol 2021).
    """

    channels: int
    norm_groups: int
    norm_eps: float
    dropout: float
    scale_shift: bool
    dtype: DTypeLike
    resample: Resample = "none"
    convolution: Convolution = "auto"

    @nn.compact
    def __call__(
        self, x: Features, embedding: Float[Array, "batch width"], dropout_keys: ImageKeys | None = None
    ) -> Features:
        resampled = RESAMPLE[self.resample]
        h = nn.silu(GroupNorm(self.norm_groups, self.norm_eps, name="norm_in")(x))
        h = conv3x3(self.channels, self.dtype, "conv_in", convolution=self.convolution)(resampled(h))
        width = 2 * self.channels if self.scale_shift else self.channels
        shift = over_pixels(dense(width, self.dtype, "embedding")(nn.silu(embedding)))
        norm_out = GroupNorm(self.norm_groups, self.norm_eps, name="norm_out")
        if self.scale_shift:
            scale, shift = jnp.split(shift, 2, axis=-1)
            h = norm_out(h) * (1.0 + scale) + shift
        else:
            h = norm_out(h + shift)
        h = nn.silu(h)
        if self.dropout > 0.0 and dropout_keys is not None:
            h = dropout(h, self.dropout, dropout_keys, layer="/".join(self.path))
        h = conv3x3(self.channels, self.dtype, "conv_out", last=True, convolution=self.convolution)(h)
        x = resampled(x)
        if x.shape[-1] != self.channels:
            x = dense(self.channels, self.dtype, "shortcut")(x)
        return x + h


class SelfAttention(nn.Module):
    """Residual self-attention between all pixels: Ho et al. 2020, appendix B."""

    heads: int
    norm_groups: int
    norm_eps: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Features) -> Features:
        batch, height, width, channels = x.shape
        h = GroupNorm(self.norm_groups, self.norm_eps, name="norm")(x)
        h = h.reshape(batch, height * width, channels)
        per_head = (batch, height * width, self.heads, channels // self.heads)
        query, key, value = (dense(channels, self.dtype, name)(h).reshape(per_head) for name in ("q", "k", "v"))
        h = jax.nn.dot_product_attention(query, key, value).reshape(batch, height, width, channels)
        return x + dense(channels, self.dtype, "out", last=True)(h)
