"""The U-Net of Ho et al. 2020, with options for those of Nichol & Dhariwal 2021 and ADM.

    x_t -> conv -> down: stages of residual blocks (+ attention), each halving the image
               -> middle: block, attention, block
               -> up: the stages in reverse, each block with one skip connection from the way down -> norm, SiLU, conv

`layers.py` has the layers; `bind.py` turns a UNet and its parameters into a Denoiser.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PyTree

from ddpm_jax.network.layers import (
    Convolution,
    GroupNorm,
    Resample,
    ResidualBlock,
    SelfAttention,
    conv3x3,
    dense,
    downsample,
    halving_conv3x3,
    time_embedding,
    upsample,
)
from ddpm_jax.shapes import ConditionChannels, Features, ImageKeys, Images, Output


class UNet(nn.Module):
    """Maps (x_t, n, labels) to an image of out_channels; config/sections.py documents the fields of the same names.

    Ho et al.: the defaults. Improved DDPM: scale_shift, heads=4, attention at 16 and 8. ADM: scale_shift,
    head_channels=64, resampling="residual".
    """

    out_channels: int
    """Channels of the image, or twice as many if the variance is learned."""
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    heads: int = 1
    head_channels: int | None = None
    dropout: float = 0.0
    norm_groups: int = 32
    norm_eps: float = 1e-6
    scale_shift: bool = False
    resampling: Literal["conv", "pool", "residual"] = "conv"
    downsample_padding: int = 0
    frequency_shift: int = 1
    labels: int = 0
    """Width of the label vector (classes or attributes); 0 for an unconditional model."""
    condition_channels: int = 0
    """Channels of the image that the network is conditioned on beside x_t; 0 for none."""
    condition_steps: bool = False
    """Whether the network is conditioned on the step to which that image is noised."""
    augmentation: int = 0
    """Number of parameters of a training image's augmentation; 0 without augmentation."""
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    convolution: Convolution = "auto"

    def conv(self, channels: int, name: str, *, last: bool = False) -> nn.Conv:
        """A 3x3 convolution that keeps the size."""
        return conv3x3(channels, self.dtype, name, last=last, convolution=self.convolution)

    def block(self, stage: int, name: str, *, resample: Resample = "none") -> nn.Module:
        """A residual block with the width of a stage."""
        kind = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        width = self.channels * self.multipliers[stage]
        norm = self.norm_groups, self.norm_eps
        return kind(width, *norm, self.dropout, self.scale_shift, self.dtype, resample, self.convolution, name=name)

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
        condition: ConditionChannels | None = None,
        condition_steps: Int[Array, "batch"] | None = None,
        augmentation: Float[Array, "batch parameters"] | None = None,
        dropout_keys: ImageKeys | None = None,
    ) -> Output:
        """x: [batch, height, width, channels]; n: [batch], 0-based time; labels: zeros, or None, are the null label.

        condition: further channels beside x; zeros, or None, are the null condition. condition_steps: the step to which
        it is noised; None for 0.
        augmentation: the parameters of the images' augmentation; zeros, or None, for images as they are.
        dropout_keys: those of the images while training; None for no dropout. Returns float32.
        """
        last_stage = len(self.multipliers) - 1
        embedding = self.embed(n, labels, augmentation, condition_steps)
        if self.condition_channels:
            null = jnp.zeros((*x.shape[:3], self.condition_channels), x.dtype)
            x = jnp.concatenate([x, null if condition is None else condition], axis=-1)
        x = self.conv(self.channels, "conv_in")(x.astype(self.dtype))

        skips = [x]
        for stage in range(last_stage + 1):
            for i in range(self.blocks):
                x = self.block(stage, f"down_{stage}_block_{i}")(x, embedding, dropout_keys)
                if min(x.shape[1:3]) in self.attention_resolutions:
                    x = self.attend(x, f"down_{stage}_attention_{i}")
                skips.append(x)
            if stage < last_stage:
                x = self.halve(x, embedding, stage, dropout_keys)
                skips.append(x)

        x = self.block(last_stage, "middle_block_0")(x, embedding, dropout_keys)
        x = self.attend(x, "middle_attention")
        x = self.block(last_stage, "middle_block_1")(x, embedding, dropout_keys)

        for stage in reversed(range(last_stage + 1)):
            for i in range(self.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = self.block(stage, f"up_{stage}_block_{i}")(x, embedding, dropout_keys)
                if min(x.shape[1:3]) in self.attention_resolutions:
                    x = self.attend(x, f"up_{stage}_attention_{i}")
            if stage > 0:
                x = self.double(x, embedding, stage, dropout_keys)

        x = nn.silu(GroupNorm(self.norm_groups, self.norm_eps, name="norm_out")(x))
        return self.conv(self.out_channels, "conv_out", last=True)(x).astype(jnp.float32)

    def embed(
        self, n: Array, labels: Array | None, augmentation: Array | None, condition_steps: Array | None
    ) -> Float[Array, "batch width"]:
        """The embedding of time, labels and so on, of width 4 * channels, that conditions every block."""
        width = 4 * self.channels
        h = time_embedding(n, self.channels, self.frequency_shift).astype(self.dtype)
        h = dense(width, self.dtype, "time_in")(h)
        h = dense(width, self.dtype, "time_out")(nn.silu(h))
        for name, size, vectors in (
            ("labels", self.labels, labels),
            ("augmentation", self.augmentation, augmentation),
        ):
            if size:
                vectors = jnp.zeros((n.shape[0], size), jnp.float32) if vectors is None else vectors
                # Without a bias, zeros (the null label, an image as it is) add nothing.
                h = h + dense(width, self.dtype, name, use_bias=False)(vectors.astype(self.dtype))
        if self.condition_steps:
            steps = jnp.zeros_like(n) if condition_steps is None else condition_steps
            noised_to = time_embedding(steps, self.channels, self.frequency_shift).astype(self.dtype)
            h = h + dense(width, self.dtype, "condition_steps")(noised_to)
        return h

    def halve(self, x: Features, embedding: Array, stage: int, dropout_keys: ImageKeys | None) -> Features:
        """Goes from a stage to the next, at half the size."""
        name = f"down_{stage}_downsample"
        if self.resampling == "residual":
            return self.block(stage, name, resample="down")(x, embedding, dropout_keys)
        if self.resampling == "pool":
            return downsample(x)
        return halving_conv3x3(x.shape[-1], self.dtype, name, self.downsample_padding)(x)

    def double(self, x: Features, embedding: Array, stage: int, dropout_keys: ImageKeys | None) -> Features:
        """Goes from a stage to the previous one, at twice the size."""
        name = f"up_{stage}_upsample"
        if self.resampling == "residual":
            return self.block(stage, name, resample="up")(x, embedding, dropout_keys)
        return self.conv(x.shape[-1], name)(upsample(x))


def init_params(unet: UNet, key: Array, image_shape: tuple[int, int, int]) -> PyTree:
    """Initial float32 parameters; call it under jit, which removes the forward pass.

    image_shape: height, width and channels.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return unet.init(key, images, jnp.zeros((1,), jnp.int32))["params"]
