"""From data.source to a Dataset: the one place that lists the sources."""

from collections.abc import Callable
from pathlib import Path

from ddpm_jax.config import Config
from ddpm_jax.data.cache import user_cache
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.data.digits import load_digits
from ddpm_jax.data.folder import load_folder
from ddpm_jax.data.synthetic import draw_discs
from ddpm_jax.errors import UserError

SYNTHETIC_IMAGES = 64


def open_dataset(config: Config) -> Dataset:
    """The images that a configuration asks for, with as many classes as the model is told."""
    data, classes = config.data, config.model.classes
    cache = Path(data.cache) if data.cache else user_cache("data")
    sources: dict[str, Callable[[], Dataset]] = {
        "digits": load_digits,
        "folder": lambda: load_folder(data.path, data.image_size, data.channels, cache),
        "synthetic": lambda: draw_discs(SYNTHETIC_IMAGES, data.image_size, data.channels, classes),
    }
    dataset = sources[data.source]()
    if config.model.attributes:
        raise UserError(
            f"model.attributes={config.model.attributes} needs attributes, and data.source={data.source!r} has none; "
            "set it to 0, or use model.classes."
        )
    if classes and classes != len(dataset.names):
        names = ", ".join(dataset.names[:10]) + (", …" if len(dataset.names) > 10 else "")
        raise UserError(f"model.classes={classes}, but the data has {len(dataset.names)} ({names}); set it to that.")
    return dataset
