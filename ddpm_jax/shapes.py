"""Array types shared by the whole package, documented by their axis names.

The annotations have no run-time cost; the test suite checks them.
"""

import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8, UInt16

AnyArray = Array | np.ndarray

Images = Float[AnyArray, "batch height width channels"]
"""Images as the network receives them; clean images are in [-1, 1]."""

Output = Float[AnyArray, "batch height width outputs"]
"""Output of a network: an image, with twice the channels if it also predicts the variance."""

Features = Float[AnyArray, "batch _ _ _"]
"""Activations inside a network, of any height, width and channels."""

Frames = Float[AnyArray, "frames batch height width channels"]
"""Snapshots of images along a sampling trajectory, noise first."""

Pixels = UInt8[AnyArray, "batch height width channels"] | UInt16[AnyArray, "batch height width channels"]
"""Images as stored in files, in 0..255 or, at a depth of 16 bits, in 0..65535; alpha is the last of 2 or 4 channels."""

Steps = Int[AnyArray, "batch"]
"""One diffusion step for each image, in 1..T (0 is clean data)."""

PerImage = Float[Array, "batch"]
"""One number for each image."""

Table = Float[np.ndarray, "T1"]
"""One number for each step 0..T, computed on the host in float64."""

Betas = Float[np.ndarray, "T"]
"""One number for each step 1..T."""

ImageKeys = Key[Array, "batch"]
"""One random key for each image."""

Labels = Int[AnyArray, "batch"] | UInt8[AnyArray, "batch attributes"]
"""Labels as stored in data sets: class numbers (-1: no label), or attributes, 1 for yes and 0 for no."""

LabelVectors = Float[AnyArray, "batch labels"]
"""Labels as the network receives them: one-hot classes, or attributes as +1 (yes) and -1 (no); zeros mean no label."""

Augmentations = Float[AnyArray, "batch parameters"]
"""The parameters of each training image's augmentation (data/augment.py); zeros mean the image as it is."""

Conditions = Float[AnyArray, "batch condition_height condition_width condition_channels"]
"""Images that a model is conditioned on, in [-1, 1], of the size and channels of Config.condition_shape."""

ConditionPixels = (
    UInt8[AnyArray, "batch condition_height condition_width condition_channels"]
    | UInt16[AnyArray, "batch condition_height condition_width condition_channels"]
)
"""The same as stored in files; that of a model that inpaints has the mask as its last channel."""

ConditionChannels = Float[AnyArray, "batch height width conditions"]
"""Conditions as the network receives them: channels beside x_t; zeros mean no condition."""

OneKey = Key[Array, ""]
"""A random key."""
