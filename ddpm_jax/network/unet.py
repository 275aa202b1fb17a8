"""The U-Net of Ho et al. 2020, with the options that make it the one of Nichol & Dhariwal 2021 or ADM's.

    x_t -> conv -> down: stages of residual blocks (+ attention), each halving the image
               -> middle: block, attention, block
               -> up: the same stages backwards, each block fed with one skip from the way down -> norm, SiLU, conv

`layers.py` has the pieces; `bind.py` turns a UNet and its parameters into a Denoiser.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PyTree

from ddpm_jax.network.layers import (
    GroupNorm,
    Resample,
    ResidualBlock,
    SelfAttention,
    conv3x3,
    dense,
    doubling_conv3x3,
    downsample,
    halving_conv3x3,
    time_embedding,
)
from ddpm_jax.shapes import Features, Images, Output


class UNet(nn.Module):
    """Maps (x_t, n, labels) to an image of out_channels.

    Ho's: the defaults. Improved DDPM: scale_shift, heads=4, attention at 16 and 8. ADM: scale_shift, head_channels=64,
    resampling="residual".
    """

    out_channels: int
    """Those of the image; twice as many where the variance is learned."""
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Width of each stage in units of `channels`; between stages the image is halved."""
    blocks: int = 2
    """Residual blocks per stage on the way down; one more on the way up."""
    attention_resolutions: tuple[int, ...] = (16,)
    """Image sizes at which every block is followed by self-attention; the middle always has it."""
    heads: int = 1
    head_channels: int | None = None
    """Channels of one attention head; replaces `heads`."""
    dropout: float = 0.0
    norm_groups: int = 32
    norm_eps: float = 1e-6
    scale_shift: bool = False
    resampling: Literal["conv", "pool", "residual"] = "conv"
    """Down by a strided convolution, by averaging, or inside a residual block; up by nearest neighbour and a
    convolution, or inside a residual block."""
    downsample_padding: int = 0
    """Zeros above and on the left of images that a strided convolution halves: 0 as Ho's, or 1."""
    frequency_shift: int = 1
    """Of the time embedding: 1 as Ho's, 0 as ADM's."""
    labels: int = 0
    """Width of the label vector (classes or attributes); 0 for an unconditional model."""
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    """Recompute each residual block in the backward pass: less memory, about a third more time."""

    def block(self, stage: int, name: str, dropout: float, *, resample: Resample = "none") -> nn.Module:
        """A residual block of the width of a stage."""
        kind = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        width = self.channels * self.multipliers[stage]
        norm = self.norm_groups, self.norm_eps
        return kind(width, *norm, dropout, self.scale_shift, self.dtype, resample, name=name)

    def attend(self, x: Features, name: str) -> Features:
        """Self-attention with the configured heads."""
        heads = x.shape[-1] // self.head_channels if self.head_channels else self.heads
        return SelfAttention(heads, self.norm_groups, self.norm_eps, self.dtype, name=name)(x)

    @nn.compact
    def __call__(
        self,
        x: Images,
        n: Int[Array, "batch"],
        labels: Float[Array, "batch labels"] | None = None,
        *,
        train: bool = False,
    ) -> Output:
        """x: [batch, height, width, channels]; n: [batch], the 0-based time; labels: zeros are the null label.

        train=True drops out at random and wants rngs={"dropout": key}. Returns float32.
        """
        dropout = self.dropout if train else 0.0
        last_stage = len(self.multipliers) - 1
        embedding = self.embed(n, labels)
        x = conv3x3(self.channels, self.dtype, "conv_in")(x.astype(self.dtype))

        skips = [x]
        for stage in range(last_stage + 1):
            for i in range(self.blocks):
                x = self.block(stage, f"down_{stage}_block_{i}", dropout)(x, embedding)
                if x.shape[1] in self.attention_resolutions:
                    x = self.attend(x, f"down_{stage}_attention_{i}")
                skips.append(x)
            if stage < last_stage:
                x = self.halve(x, embedding, stage, dropout)
                skips.append(x)

        x = self.block(last_stage, "middle_block_0", dropout)(x, embedding)
        x = self.attend(x, "middle_attention")
        x = self.block(last_stage, "middle_block_1", dropout)(x, embedding)

        for stage in reversed(range(last_stage + 1)):
            for i in range(self.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = self.block(stage, f"up_{stage}_block_{i}", dropout)(x, embedding)
                if x.shape[1] in self.attention_resolutions:
                    x = self.attend(x, f"up_{stage}_attention_{i}")
            if stage > 0:
                x = self.double(x, embedding, stage, dropout)

        x = nn.silu(GroupNorm(self.norm_groups, self.norm_eps, name="norm_out")(x))
        return conv3x3(self.out_channels, self.dtype, "conv_out", last=True)(x).astype(jnp.float32)

    def embed(self, n: Array, labels: Array | None) -> Float[Array, "batch width"]:
        """The vector that tells every block the time and the labels, of width 4 * channels."""
        width = 4 * self.channels
        waves = time_embedding(n, self.channels, self.frequency_shift)
        h = dense(width, self.dtype, "time_in")(waves.astype(self.dtype))
        h = dense(width, self.dtype, "time_out")(nn.silu(h))
        if not self.labels:
            return h
        if labels is None:
            labels = jnp.zeros((n.shape[0], self.labels), jnp.float32)
        # Without a bias the zero vector adds nothing: it is the null label.
        return h + dense(width, self.dtype, "labels", use_bias=False)(labels.astype(self.dtype))

    def halve(self, x: Features, embedding: Array, stage: int, dropout: float) -> Features:
        """From a stage to the next, at half the size."""
        name = f"down_{stage}_downsample"
        if self.resampling == "residual":
            return self.block(stage, name, dropout, resample="down")(x, embedding)
        if self.resampling == "pool":
            return downsample(x)
        return halving_conv3x3(x.shape[-1], self.dtype, name, self.downsample_padding)(x)

    def double(self, x: Features, embedding: Array, stage: int, dropout: float) -> Features:
        """From a stage to the one before, at twice the size."""
        name = f"up_{stage}_upsample"
        if self.resampling == "residual":
            return self.block(stage, name, dropout, resample="up")(x, embedding)
        return doubling_conv3x3(x.shape[-1], self.dtype, name)(x)


def init_params(unet: UNet, key: Array, image_size: int, image_channels: int) -> PyTree:
    """Fresh float32 parameters for square images; to be compiled as a whole, which drops the forward pass."""
    images = jnp.zeros((1, image_size, image_size, image_channels))
    return unet.init(key, images, jnp.zeros((1,), jnp.int32))["params"]
