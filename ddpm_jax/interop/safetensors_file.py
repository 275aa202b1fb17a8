"""A whole model in one safetensors file of our own: both sets of parameters, and the configuration as text.

params.<path> and ema.<path>, such as ema.down_0_block_0.conv_in.kernel   in Flax's layout (height, width, in, out)
metadata: format ("ddpm_jax"), config (JSON), labels (JSON), step
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import PyTree

from ddpm_jax.config import Config, flatten, from_json, to_json
from ddpm_jax.config.convert import MADE_WITH
from ddpm_jax.errors import UserError
from ddpm_jax.interop.runs import numbered, shapes_of
from ddpm_jax.interop.tensors import TensorFile, by_path, check_names, fill, flat, write_tensors

FORMAT = "ddpm_jax"
SETS = ("params", "ema")


@dataclasses.dataclass(frozen=True)
class Saved:
    """A model in a file: its configuration, and its parameters, still on disk."""

    file: TensorFile
    config: Config
    names: Sequence[str]
    step: int

    @property
    def fields(self) -> dict[str, object]:
        """The fields of a configuration that the parameters settle."""
        return {name: value for name, value in flatten(self.config).items() if name.startswith(MADE_WITH)}

    def tree(self, which: str) -> PyTree:
        """The parameters ("params") or their average ("ema"), float32."""
        return fill(shapes_of(self.config), lambda path: self.file.load(f"{which}.{path}"))


def read_file(path: Path) -> Saved:
    """The model in a file that `write_file` wrote; raises UserError for any other, and lists tensors that differ."""
    file = TensorFile(path)
    if file.metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} is not of format {FORMAT!r}, got {file.metadata.get('format')!r}; see docs/diffusers.md."
        )
    config = from_json(file.metadata.get("config", ""), f"{path}'s configuration")
    shapes = {name: leaf.shape for name, leaf in by_path(shapes_of(config)).items()}
    expected = {f"{which}.{name}": shape for which in SETS for name, shape in shapes.items()}
    check_names(file.shapes, expected, str(path))
    return Saved(file, config, _names(file.metadata, config, path), _step(file.metadata, path))


def write_file(path: Path, config: Config, params: PyTree, ema: PyTree, *, names: Sequence[str], step: int) -> None:
    """Writes both sets of parameters, whole or not at all; refuses to replace a file."""
    if path.exists():
        raise UserError(f"{path} exists; choose another name, or remove it.")
    trees = {"params": params, "ema": ema}
    tensors = {f"{which}.{name}": leaf for which, tree in trees.items() for name, leaf in flat(tree).items()}
    texts = {"config": to_json(config), "labels": json.dumps(list(names), ensure_ascii=False), "step": str(step)}
    write_tensors(path, tensors, {"format": FORMAT, **texts})


def _names(metadata: Mapping[str, str], config: Config, path: Path) -> Sequence[str]:
    try:
        names = json.loads(metadata.get("labels", "[]"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its labels are not JSON ({error}).") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: its labels are {names!r}; expected a list of names.")
    return names or numbered(config)


def _step(metadata: Mapping[str, str], path: Path) -> int:
    step = metadata.get("step", "0")
    if not (step.isascii() and step.isdecimal()):
        raise UserError(f"{path}: its step is {step!r}; expected a whole number.")
    return int(step)
