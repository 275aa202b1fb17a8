"""Opens the Dataset that config.data describes; the only place that lists the sources."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ddpm_jax.config import Config
from ddpm_jax.config.fields import sides
from ddpm_jax.config.sections import Data
from ddpm_jax.data.cache import open_cache
from ddpm_jax.data.collection import Collection
from ddpm_jax.data.dataset import Dataset, Labels
from ddpm_jax.data.decode import decoding_of, widened
from ddpm_jax.data.prepare import load_images
from ddpm_jax.data.select import conditions, select_rows
from ddpm_jax.data.sources.array_record import open_array_record
from ddpm_jax.data.sources.arrays import open_arrays
from ddpm_jax.data.sources.celeba import is_celeba, open_celeba
from ddpm_jax.data.sources.digits import load_digits
from ddpm_jax.data.sources.folder import open_folder
from ddpm_jax.data.sources.parquet import open_parquet
from ddpm_jax.data.sources.shards import source_of_shards
from ddpm_jax.data.sources.synthetic import draw_discs
from ddpm_jax.data.sources.tfds import data_dir, find_prepared, open_tfds
from ddpm_jax.data.sources.webdataset import open_webdataset
from ddpm_jax.data.stream import Streamed
from ddpm_jax.errors import UserError, abbreviated

logger = logging.getLogger(__name__)

SYNTHETIC_IMAGES = 64
FILES: dict[str, Callable[[Data], Collection]] = {
    "folder": open_folder,
    "arrays": open_arrays,
    "parquet": open_parquet,
    "webdataset": open_webdataset,
    "celeba": open_celeba,
    "tfds": open_tfds,
    "array_record": open_array_record,
}
ONE_LABEL = ("arrays", "celeba", "digits", "synthetic")
"""Sources whose labels have no columns, of which data.label_column could choose one."""


def open_dataset(config: Config, *, labelled: bool = False, list_unreadable: bool = False) -> Dataset:
    """The images that a configuration selects, and the labels that the model is conditioned on.

    labelled: read labels even if that is slow and the configuration does not need them.
    list_unreadable: if too many images cannot be read, find all of them before raising.
    """
    collection, rows, labels, names = choose_images(config, labelled)
    if collection.decoded is not None:
        pixels = collection.decoded[rows]
        return Dataset(widened(pixels) if config.data.depth == 16 else pixels, labels, names)
    how = decoding_of(config.data)
    if config.data.stream:
        return Dataset(Streamed(collection, rows, how), labels, names, left_out=collection.left_out)
    entry = load_images(collection, rows, how, open_cache(config.data.cache), list_unreadable)
    left_out = dict(collection.left_out)
    if lost := [collection.names[int(row)] for row in np.delete(rows, entry.numbers)]:
        # At every start, since cached images are not read again.
        logger.warning("%d of %d images cannot be read and are left out: %s", len(lost), len(rows), abbreviated(lost))
        left_out["unreadable"] = lost
    return Dataset(entry.images, labels[entry.numbers], names, entry.fingerprints, left_out)


def count_images(config: Config) -> tuple[int, bool]:
    """Number of images that a configuration selects, and whether they are cached; decodes and downloads nothing."""
    data = config.data
    if kind_of(data) == "tfds" and data.name:
        place = data_dir(data.path)
        if find_prepared(place, data.name) is None:
            raise UserError(f"data.name={data.name!r} has not been prepared in {place}.")
    collection, rows, *_ = choose_images(config, labelled=False)
    return len(rows), collection.decoded is None and not data.stream


def choose_images(config: Config, labelled: bool) -> tuple[Collection, np.ndarray, Labels, tuple[str, ...]]:
    """The source's collection, the rows selected from it, their labels, and the labels' names."""
    data, model = config.data, config.model
    source = kind_of(data)
    if data.label_column is not None and source in ONE_LABEL:
        raise UserError(
            f"data.label_column={data.label_column!r} is not read by data.source={source!r}, whose labels have a fixed "
            "place; leave it out."
        )
    if data.value_range and source != "arrays":
        raise UserError(
            f"data.value_range={data.value_range} is for arrays of floats, got data.source={source!r}; unset it."
        )
    if source in FILES:
        collection = FILES[source](data)
    elif source == "digits":
        collection = load_digits(data)
    else:
        names = [f"attribute {i}" for i in range(model.attributes)]
        if data.attributes:  # All further commas belong to the last name.
            names = [name.strip() for name in data.attributes.split(",", model.attributes - 1)]
        attributes = tuple(names)
        collection = draw_discs(SYNTHETIC_IMAGES, sides(data.image_size), data.channels, model.classes, attributes)
    annotations = collection.annotations
    if collection.scan and (labelled or data.classes or data.filter or model.classes or model.attributes):
        annotations = collection.scan()
    rows = select_rows(data, annotations, collection.origin)
    return collection, rows, *conditions(config, annotations.take(rows), collection.origin)


def kind_of(data: Data) -> str:
    """data.source; for "auto", the source that fits data.path, or "tfds" if only data.name is set."""
    if data.source != "auto":
        return data.source
    if not data.path:
        if data.name:
            return "tfds"
        raise UserError(
            "data.path is not set; give a folder or zip of images, an .npz, or CelebA's folder, such as "
            "--config.data.path=photos/ (or name a TensorFlow Datasets set in data.name)."
        )
    if data.path.startswith("gs://"):
        return "array_record"
    path = Path(data.path).expanduser()
    if data.name and (path / data.name.split("/")[0].split(":")[0]).is_dir():
        return "tfds"
    if path.suffix in (".npy", ".npz"):
        return "arrays"
    if is_celeba(path):
        return "celeba"
    if any(path.glob("*.array_record*")) or (path / "features.json").is_file():
        return "array_record"
    return source_of_shards(path) or "folder"
