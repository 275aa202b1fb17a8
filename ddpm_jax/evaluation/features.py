"""The features by which images are compared: Inception's, or the pixels themselves for tiny images.

images -> batches over all devices -> features float32 [N, D] (-> logits [N, 1008])
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt

from ddpm_jax.errors import UserError, nearest
from ddpm_jax.evaluation.inception import Inception, Layer, preprocess
from ddpm_jax.evaluation.weights import has_classifier, read_weights, safe_file
from ddpm_jax.runtime.compilation import jit
from ddpm_jax.runtime.devices import along_batch, replicated
from ddpm_jax.runtime.files import sha256
from ddpm_jax.runtime.progress import progress

BATCH = 64
"""Images per device in one batch."""
INCEPTION: dict[str, Layer] = {
    "inception": 2048,
    "inception-2048": 2048,
    "inception-768": 768,
    "inception-192": 192,
    "inception-64": 64,
}
EXTRACTORS = (*INCEPTION, "pixels")
Batch = tuple[Float[np.ndarray, "batch D"], Float[np.ndarray, "batch classes"] | None]


@dataclass(frozen=True)
class Extractor:
    """A frozen function from images to features."""

    name: str
    """Such as "inception-768"."""
    weights: str | None
    """SHA-256 of the file of weights."""
    dimensions: int | None
    """Dimensions of a feature; None for pixels, where they depend on the images."""
    extract: Callable[[UInt[np.ndarray, "batch height width channels"]], tuple[Array, Array | None]]
    """Features, and logits if there is a classifier."""

    @property
    def distance(self) -> str:
        """Name of the Fréchet distance between these features; only that of 2,048 features is plain FID."""
        return {"inception-2048": "FID", "pixels": "FID-pixels"}.get(self.name, f"FID-{self.name.partition('-')[2]}")


def full_name(name: str) -> str:
    """The Extractor.name for one of EXTRACTORS; raises UserError for other names."""
    if name not in EXTRACTORS:
        raise UserError(f"Features {name!r} do not exist; {nearest(name, EXTRACTORS)}")
    return f"inception-{INCEPTION[name]}" if name in INCEPTION else name


def open_extractor(name: str, weights: Path | None, *, grey: bool = False) -> Extractor:
    """Opens one of EXTRACTORS.

    weights: the file of Inception's weights; None for the standard one.
    grey: pixels are grey, even if stored in three channels, and count as one number each.
    """
    if full_name(name) == "pixels":
        return Extractor(name, None, None, lambda pixels: (pixel_features(pixels, grey), None))
    layer, weights = INCEPTION[name], safe_file(weights)  # Found and converted only once.
    classifies = layer == 2048 and has_classifier(weights)
    params = read_weights(weights, "logits" if classifies else layer)
    # This process's own devices: only the process that holds the images has work to do.
    mesh = jax.sharding.Mesh(jax.local_devices(), ("data",))
    params = jax.device_put(params, replicated(mesh))

    def extract(params: Any, pixels: Array) -> tuple[Array, Array | None]:
        features = Inception(layer).apply({"params": params}, preprocess(pixels))
        assert isinstance(features, jax.Array)
        logits = features @ params["fc"]["kernel"] if classifies else None
        return features, logits

    shardings = {"in_shardings": (replicated(mesh), along_batch(mesh)), "out_shardings": replicated(mesh)}
    compiled = jit(extract, exact=True, **shardings)
    return Extractor(full_name(name), sha256(weights), int(layer), partial(compiled, params))


def pixel_features(pixels: UInt[np.ndarray, "batch height width channels"], grey: bool) -> Float[Any, "batch D"]:
    """Pixels in [0, 1], each of them a feature; so is each level of alpha."""
    if grey:
        if (pixels != pixels[..., :1]).any():
            raise UserError("--grey is for grey images, but one of these is coloured; leave it out.")
        pixels = pixels[..., :1]
    return pixels.reshape(len(pixels), -1).astype(np.float32) / np.iinfo(pixels.dtype).max


def iter_features(extractor: Extractor, images: Any, progress_label: str) -> Iterator[Batch]:
    """Features (and logits) of images [N, height, width, channels], batch by batch, in order.

    images: an object with a length whose slices are arrays of pixels, such as a memory-mapped file.
    """
    count, size = len(images), BATCH * jax.local_device_count()
    for start in progress(range(0, count, size), progress_label, "batches", total=-(-count // size)):
        batch = np.asarray(images[np.arange(start, min(start + size, count))])
        # Padding the last batch lets one compiled shape serve all.
        padded = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
        features, logits = jax.device_get(extractor.extract(padded))
        yield features[: len(batch)], None if logits is None else logits[: len(batch)]
