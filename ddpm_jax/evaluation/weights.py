"""Inception's weights: fetched, verified and converted.

    pt_inception-2015-12-05-6726825d.pth  ->  .safetensors of the same names  ->  batch norms folded in, Flax's layout

The standard file is pytorch-fid's. It is a PyTorch pickle, so it is read by torch.load(weights_only=True), which
executes nothing, and is converted once. A file without the last layers serves the features before them.
"""

import http.client
import logging
import urllib.request
from pathlib import Path
from pickle import UnpicklingError

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.inception import LAYERS, SIZE, Inception, Layer
from ddpm_jax.interop.tensors import TensorFile, by_path, fill, write_tensors
from ddpm_jax.runtime.files import sha256, staged, user_cache
from ddpm_jax.runtime.locks import exclusive_lock
from ddpm_jax.runtime.signals import raise_if_stopped

NAME = "pt_inception-2015-12-05-6726825d"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{NAME}.pth"
CHECKSUM = "6726825d"
"""The first digits of the standard file's SHA-256, as in its name."""
BN_EPS = 0.001
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
CHUNK = 2**20
"""Bytes per read of the download."""

logger = logging.getLogger(__name__)


def read_weights(path: Path | None, layer: Layer) -> PyTree:
    """Parameters of Inception up to a layer, float32, from a file, or the standard one for None.

    Raises UserError for layers that the file does not hold, with the features that it serves.
    """
    file = TensorFile(safe_file(path))
    missing = _missing(file, layer)
    if missing:
        served = ", ".join(f"inception-{known}" for known in LAYERS if not _missing(file, known))
        raise UserError(
            f"{file.path} lacks {missing[0]}, or has it in another shape, which inception-{layer} needs; it serves "
            f"{served or 'no features'}."
        )
    return fill(param_shapes(layer), lambda path: _folded(file, path))


def has_classifier(path: Path) -> bool:
    """Whether the file holds the classifier, which the Inception Score needs."""
    return TensorFile(path).shapes.get("fc.weight") == (1008, 2048)


def param_shapes(layer: Layer) -> PyTree:
    """The shapes of the parameters up to a layer."""
    images = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    return jax.eval_shape(lambda x: Inception(layer).init(jax.random.key(0), x)["params"], images)


def safe_file(path: Path | None) -> Path:
    """The weights as safetensors: the file itself, or a .pth file (for None, the standard one) converted once."""
    if path is not None and not path.is_file():
        raise UserError(f"{path} is not a file; expected Inception's weights (without a path they are fetched).")
    if path is not None and path.suffix != ".pth":
        return path
    converted = user_cache("inception") / f"{NAME if path is None else sha256(path)[:16]}.safetensors"
    if not converted.exists():
        pickled = path or download()
        with exclusive_lock(converted.with_name(f".{converted.name}.lock"), None):  # Another job may be converting it.
            if not converted.exists():
                convert(pickled, converted)
    return converted


def download() -> Path:
    """Fetches the standard file once, and verifies it."""
    target = user_cache("inception") / f"{NAME}.pth"
    with exclusive_lock(target.with_name(f".{target.name}.lock"), None):  # Another job may be fetching it.
        if not target.exists():
            _fetch(target)
    return target


def _fetch(target: Path) -> None:
    logger.info("Fetching %s", URL)
    try:
        with staged(target) as partial:
            with urllib.request.urlopen(URL, timeout=60) as source, partial.open("wb") as file:
                while chunk := source.read(CHUNK):
                    file.write(chunk)
                    raise_if_stopped()
            if not (digest := sha256(partial)).startswith(CHECKSUM):
                raise UserError(
                    f"The file at {URL} has the checksum {digest[:8]}…, expected {CHECKSUM}…: it is damaged, or "
                    "another file. Try again, or give the path of a file as weights."
                )
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"Inception's weights cannot be fetched from {URL} ({error}); fetch them elsewhere and give their path as "
            "weights (--config.evaluate.weights=FILE, or a script's --weights=FILE), or measure features=pixels."
        ) from error


def convert(pickled: Path, target: Path) -> None:
    """Converts a .pth file to a safetensors file with the same names."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"{pickled} is in PyTorch's format, and converting it needs torch: pip install torch (or "
            "convert it where torch is installed, and give the .safetensors file as weights)."
        ) from error
    try:
        tensors = torch.load(pickled, map_location="cpu", weights_only=True)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items() if tensor.is_floating_point()}
    except (RuntimeError, OSError, EOFError, ValueError, AttributeError, TypeError, UnpicklingError) as error:
        raise UserError(f"{pickled} holds no tensors that can be read safely ({error}).") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(target, arrays, {"format": "pt"})


def _missing(file: TensorFile, layer: Layer) -> list[str]:
    """Names of the tensors that the parameters up to a layer need and the file lacks, or has in another shape."""
    needed: dict[str, tuple[int, ...]] = {}
    for path, leaf in by_path(param_shapes(layer)).items():
        module, _, kind = path.rpartition(".")
        if kind == "kernel":
            *kernel, inputs, outputs = leaf.shape
            needed[f"{module}.weight"] = (outputs, inputs, *kernel)
            if module != "fc":
                norm = module.removesuffix(".conv") + ".bn"
                needed |= {f"{norm}.{part}": (outputs,) for part in BATCH_NORM}
    return [name for name, shape in needed.items() if file.shapes.get(name) != shape]


def _folded(file: TensorFile, path: str) -> np.ndarray:
    """A parameter, with the batch norm of its convolution folded in, in float64."""
    module, _, leaf = path.rpartition(".")
    if module == "fc":
        return file.load("fc.weight").T
    norm = module.removesuffix(".conv") + ".bn"
    scale, shift, mean, variance = (file.load(f"{norm}.{part}").astype(np.float64) for part in BATCH_NORM)
    gain = scale / np.sqrt(variance + BN_EPS)
    if leaf == "bias":
        return (shift - mean * gain).astype(np.float32)
    return (file.load(f"{module}.weight").transpose(2, 3, 1, 0) * gain).astype(np.float32)
