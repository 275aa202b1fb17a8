"""The Inception-v3 of FID: the network of 2015-12-05 (Szegedy et al. 2015), as a frozen feature extractor.

    pixels -> 299x299 in [-1, 1] -> stem -> Mixed_5b..5d -> Mixed_6a..6e -> Mixed_7a..7c -> logits
                                    64, 192                  768            2048            1008

Module names are those of pytorch-fid's file. As there, and unlike in torchvision's model, average pools exclude the
padding, and Mixed_7c uses a max pool. Batch norms are folded into the convolutions as weights are read (`weights.py`).
"""

from collections.abc import Callable
from functools import reduce
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt

from ddpm_jax.network import winograd
from ddpm_jax.shapes import AnyArray, Features

Layer = Literal[64, 192, 768, 2048, "logits"]
LAYERS: tuple[Layer, ...] = (64, 192, 768, 2048, "logits")
"""Features after either half of the stem, Mixed_6e and Mixed_7c, and the classifier's logits."""
SIZE = 299
PADDED = ((0, 0), (1, 1), (1, 1), (0, 0))


class Conv(nn.Module):
    """Convolution, with its batch norm folded in, and ReLU."""

    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        padding = [(k // 2, k // 2) if self.padded else (0, 0) for k in self.kernel]
        # Also on a CPU where metrics are compiled as exact: there Winograd's features differ by 4e-7 from direct ones.
        conv = nn.Conv(
            self.channels,
            self.kernel,
            strides=self.stride,
            padding=padding,
            conv_general_dilated=winograd.conv_general_dilated,
            name="conv",
        )
        return nn.relu(conv(x))


def pool(combine: Callable[[Array, Array], Array], x: Features, stride: int) -> Features:
    """Combines 3 rows, then 3 columns, without padding: on a CPU several times as fast as XLA's windows."""
    for axis in (1, 2):
        span = x.shape[axis] - 2
        x = reduce(combine, (jax.lax.slice_in_dim(x, i, i + span, stride, axis) for i in range(3)))
    return x


def max_pool(x: Features) -> Features:
    """3x3, stride 2, without padding."""
    return pool(jnp.maximum, x, 2)


def average_pool(x: Features) -> Features:
    """3x3 around each pixel; the mean excludes padding."""
    pixels = np.pad(np.ones((1, *x.shape[1:3], 1), np.float32), PADDED)
    count = sum(pixels[:, i : i + x.shape[1], j : j + x.shape[2]] for i in range(3) for j in range(3))
    return pool(jnp.add, jnp.pad(x, PADDED), 1) / count


class MixedA(nn.Module):
    """Mixed_5b, 5c, 5d."""

    pooled: int

    @nn.compact
    def __call__(self, x: Features) -> Features:
        one = Conv(64, name="branch1x1")(x)
        five = Conv(64, (5, 5), name="branch5x5_2")(Conv(48, name="branch5x5_1")(x))
        three = Conv(96, (3, 3), name="branch3x3dbl_2")(Conv(64, name="branch3x3dbl_1")(x))
        three = Conv(96, (3, 3), name="branch3x3dbl_3")(three)
        pool = Conv(self.pooled, name="branch_pool")(average_pool(x))
        return jnp.concatenate([one, five, three, pool], axis=-1)


class MixedB(nn.Module):
    """Mixed_6a: from 35x35 to 17x17."""

    @nn.compact
    def __call__(self, x: Features) -> Features:
        three = Conv(384, (3, 3), 2, padded=False, name="branch3x3")(x)
        double = Conv(96, (3, 3), name="branch3x3dbl_2")(Conv(64, name="branch3x3dbl_1")(x))
        double = Conv(96, (3, 3), 2, padded=False, name="branch3x3dbl_3")(double)
        return jnp.concatenate([three, double, max_pool(x)], axis=-1)


class MixedC(nn.Module):
    """Mixed_6b to 6e, whose 7x7 convolutions are factored into rows and columns."""

    inner: int

    @nn.compact
    def __call__(self, x: Features) -> Features:
        row, column = (1, 7), (7, 1)
        one = Conv(192, name="branch1x1")(x)
        seven = Conv(self.inner, row, name="branch7x7_2")(Conv(self.inner, name="branch7x7_1")(x))
        seven = Conv(192, column, name="branch7x7_3")(seven)
        double = Conv(self.inner, name="branch7x7dbl_1")(x)
        for i, kernel in enumerate((column, row, column), start=2):
            double = Conv(self.inner, kernel, name=f"branch7x7dbl_{i}")(double)
        double = Conv(192, row, name="branch7x7dbl_5")(double)
        pool = Conv(192, name="branch_pool")(average_pool(x))
        return jnp.concatenate([one, seven, double, pool], axis=-1)


class MixedD(nn.Module):
    """Mixed_7a: from 17x17 to 8x8."""

    @nn.compact
    def __call__(self, x: Features) -> Features:
        three = Conv(320, (3, 3), 2, padded=False, name="branch3x3_2")(Conv(192, name="branch3x3_1")(x))
        seven = Conv(192, (1, 7), name="branch7x7x3_2")(Conv(192, name="branch7x7x3_1")(x))
        seven = Conv(192, (7, 1), name="branch7x7x3_3")(seven)
        seven = Conv(192, (3, 3), 2, padded=False, name="branch7x7x3_4")(seven)
        return jnp.concatenate([three, seven, max_pool(x)], axis=-1)


class MixedE(nn.Module):
    """Mixed_7b, and Mixed_7c with a max pool instead of an average pool."""

    maximum: bool = False

    @nn.compact
    def __call__(self, x: Features) -> Features:
        one = Conv(320, name="branch1x1")(x)
        three = Conv(384, name="branch3x3_1")(x)
        double = Conv(384, (3, 3), name="branch3x3dbl_2")(Conv(448, name="branch3x3dbl_1")(x))
        crosses = [
            Conv(384, kernel, name=f"{branch}{half}")(h)
            for branch, h in (("branch3x3_2", three), ("branch3x3dbl_3", double))
            for half, kernel in (("a", (1, 3)), ("b", (3, 1)))
        ]
        pooled = nn.max_pool(x, (3, 3), (1, 1), "SAME") if self.maximum else average_pool(x)
        return jnp.concatenate([one, *crosses, Conv(192, name="branch_pool")(pooled)], axis=-1)


class Inception(nn.Module):
    """Features [batch, D], averaged over all positions, or logits without the bias, as for the Inception Score."""

    layer: Layer

    @nn.compact
    def __call__(self, images: Float[AnyArray, "batch 299 299 3"]) -> Float[Array, "batch _"]:
        x: Features = Conv(32, (3, 3), 2, padded=False, name="Conv2d_1a_3x3")(images)
        x = Conv(32, (3, 3), padded=False, name="Conv2d_2a_3x3")(x)
        x = max_pool(Conv(64, (3, 3), name="Conv2d_2b_3x3")(x))
        if self.layer == 64:
            return jnp.mean(x, axis=(1, 2))
        x = Conv(80, name="Conv2d_3b_1x1")(x)
        x = max_pool(Conv(192, (3, 3), padded=False, name="Conv2d_4a_3x3")(x))
        if self.layer == 192:
            return jnp.mean(x, axis=(1, 2))
        for name, pooled in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = MixedA(pooled, name=f"Mixed_{name}")(x)
        x = MixedB(name="Mixed_6a")(x)
        for name, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = MixedC(inner, name=f"Mixed_{name}")(x)
        if self.layer == 768:
            return jnp.mean(x, axis=(1, 2))
        x = MixedE(name="Mixed_7b")(MixedD(name="Mixed_7a")(x))
        features = jnp.mean(MixedE(maximum=True, name="Mixed_7c")(x), axis=(1, 2))
        if self.layer == 2048:
            return features
        return nn.Dense(1008, use_bias=False, name="fc")(features)


def preprocess(pixels: UInt[AnyArray, "batch height width channels"]) -> Float[Array, "batch 299 299 3"]:
    """Pixels in [-1, 1] at 299x299, resized as in pytorch-fid: bilinear without antialiasing.

    Grey is repeated, and transparent pixels show white, as those of files do in scripts/evaluate_images.py.
    """
    images = jnp.asarray(pixels).astype(jnp.float32) / np.iinfo(pixels.dtype).max
    if images.shape[3] in (2, 4):
        images, alpha = images[..., :-1], images[..., -1:]
        images = alpha * images + (1.0 - alpha)
    if images.shape[3] == 1:
        images = jnp.repeat(images, 3, axis=-1)
    images = jax.image.resize(images, (len(images), SIZE, SIZE, 3), "bilinear", antialias=False)
    return 2.0 * images - 1.0
