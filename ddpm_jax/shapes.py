"""Array types that the whole package shares: the axis names are the documentation.

The annotations cost nothing in use; the test suite checks each of them at run time.
"""

import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

AnyArray = Array | np.ndarray

Images = Float[AnyArray, "batch height width channels"]
"""Images as the network sees them, in [-1, 1] when clean."""

Output = Float[AnyArray, "batch height width outputs"]
"""What a network returns: an image, with twice the channels where it also predicts the variance."""

Features = Float[AnyArray, "batch _ _ _"]
"""Activations inside a network: any height, width and channels, which change on the way."""

Frames = Float[AnyArray, "frames batch height width channels"]
"""Snapshots of some images along a sampling trajectory, noise first."""

Pixels = UInt8[AnyArray, "batch height width channels"]
"""Images as files hold them, in 0..255."""

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
"""Labels as data sets hold them: class numbers (-1: no label), or attributes, 1 for yes and 0 for no."""

LabelVectors = Float[AnyArray, "batch labels"]
"""Labels as the network receives them: one-hot classes, or attributes as +1 (yes) and -1 (no); zeros mean no label."""

OneKey = Key[Array, ""]
"""A random key."""
