"""Tensors by name in safetensors files, a format that contains only numbers and text and cannot execute code.

params tree  <->  {"down_0_block_0.conv_in.kernel": array, ...}  <->  model.safetensors
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ddpm_jax.errors import UserError, shell_command
from ddpm_jax.runtime.files import staged

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

Load = Callable[[str], np.ndarray]
"""Returns the tensor with a name."""


class TensorFile:
    """An open safetensors file; `load` reads one tensor at a time, so a model need not fit into memory twice."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"{path} is {'a folder' if path.is_dir() else 'not a file'}; expected a .safetensors file.")
        refuse_pickle(path)
        try:
            self._file = safe_open(path, framework="np")
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read as safetensors ({error}).") from error
        self.path = path
        self.metadata: dict[str, str] = self._file.metadata() or {}
        self.shapes = {name: tuple(self._file.get_slice(name).get_shape()) for name in self._file.keys()}  # noqa: SIM118

    def load(self, name: str) -> np.ndarray:
        """A tensor, converted to float32 from any type of float."""
        kind = self._file.get_slice(name).get_dtype()
        if kind not in ("F16", "BF16", "F32", "F64"):
            raise UserError(f"{self.path}: {name} has type {kind}; expected F16, BF16, F32 or F64.")
        tensor = np.asarray(self._file.get_tensor(name)).astype(np.float32)
        if not np.isfinite(tensor).all():
            raise UserError(f"{self.path}: {name} contains non-finite numbers; the file is damaged.")
        return tensor


def refuse_pickle(path: Path) -> None:
    """Raises UserError for pickles, which can run code when they are opened."""
    if path.suffix in PICKLED:
        program = (
            "import torch, safetensors.torch as s; "
            f"s.save_file(torch.load({str(path)!r}, weights_only=True), {str(path.with_suffix('.safetensors'))!r})"
        )
        raise UserError(
            f"{path} is a pickle, which can run code when it is opened, so it is not read. If you trust it, convert "
            f"it: {shell_command('python', '-c', program)}"
        )


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a new safetensors file, completely or not at all."""
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    mask = os.umask(0)
    os.umask(mask)
    try:
        with staged(path) as partial:
            save_file(arrays, partial, dict(metadata))
            partial.chmod(0o666 & ~mask)  # safetensors creates files that only their owner can read.
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be written ({error}); choose another folder, or free some space.") from error


def by_path(tree: PyTree) -> dict[str, Any]:
    """Every leaf by its dotted path, such as "down_0_block_0.conv_in.kernel"."""
    return {dotted(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def flat(params: PyTree) -> dict[str, np.ndarray]:
    """Every parameter by its dotted path, in host memory."""
    return {path: np.asarray(leaf) for path, leaf in by_path(jax.device_get(params)).items()}


def dotted(path: Sequence[Any]) -> str:
    """A leaf's path of dictionary keys, joined by dots."""
    return ".".join(str(part.key) for part in path)


def fill(shapes: PyTree, load: Load) -> PyTree:
    """A tree with the structure of `shapes`, whose leaves are loaded by their dotted paths."""
    return jax.tree.map_with_path(lambda path, _: load(dotted(path)), shapes)


def check_names(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raises UserError with a list of all differences if names or shapes of the tensors are not as expected."""
    both = found.keys() & expected.keys()
    differences = {
        "missing": expected.keys() - found.keys(),
        "not expected": found.keys() - expected.keys(),
        "of the wrong shape": {
            f"{name} {found[name]}, expected {expected[name]}" for name in both if found[name] != expected[name]
        },
    }
    listed = [f"{kind}: {', '.join(sorted(names))}" for kind, names in differences.items() if names]
    if listed:
        raise UserError(f"{where} does not contain this network's tensors; {'; '.join(listed)}.")
