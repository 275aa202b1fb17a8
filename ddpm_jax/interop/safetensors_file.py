"""A whole model in one safetensors file of our own: both sets of parameters, and the configuration as text.

params.<path> and ema.<path>, such as ema.down_0_block_0.conv_in.kernel   in Flax's layout (height, width, in, out)
metadata: format ("ddpm_jax"), config (JSON), labels (JSON), step

A file to sample from, such as those in pretrained/, holds the average alone.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import PyTree

from ddpm_jax.builders import param_shapes
from ddpm_jax.config import Config, fields_fixed_by, flatten, from_json, to_json
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.interop.runs import numbered
from ddpm_jax.interop.tensors import TensorFile, by_path, check_names, fill, flat, write_tensors
from ddpm_jax.workdir import parse_label_names

FORMAT = "ddpm_jax"
SETS = ("params", "ema")
PRETRAINED = "pretrained:"
"""Before the name of a model that comes with the package."""
SHELF = Path(__file__).parents[1] / "pretrained"


@dataclasses.dataclass(frozen=True)
class Saved:
    """A model in a file: its configuration, and its parameters, still on disk."""

    file: TensorFile
    config: Config
    names: Sequence[str]
    step: int
    """How far it was trained."""

    @property
    def fields(self) -> dict[str, object]:
        """The fields of a configuration that the parameters settle."""
        return {name: flatten(self.config)[name] for name in fields_fixed_by("parameters")}

    def tree(self, which: str) -> PyTree:
        """The parameters ("params"; the average where it is alone) or their average ("ema"), float32."""
        first = which if which in _sets(self.file) else "ema"
        return fill(param_shapes(self.config), lambda path: self.file.load(f"{first}.{path}"))


def read_file(path: Path) -> Saved:
    """The model in a file that `write_file` wrote; raises UserError for any other, and lists tensors that differ."""
    file = TensorFile(path)
    if file.metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} is not of format {FORMAT!r}, got {file.metadata.get('format')!r}; see docs/diffusers.md."
        )
    config = from_json(file.metadata.get("config", ""), f"{path}'s configuration")
    shapes = {name: leaf.shape for name, leaf in by_path(param_shapes(config)).items()}
    expected = {f"{which}.{name}": shape for which in _sets(file) for name, shape in shapes.items()}
    check_names(file.shapes, expected, str(path))
    step = file.metadata.get("step", "0")
    return Saved(file, config, _names(file.metadata, config, path), int(step) if step.isdecimal() else 0)


def find_file(name: str) -> Path:
    """The file of a path, or of pretrained:NAME, a model that comes with the package."""
    if not name.startswith(PRETRAINED):
        return Path(name).expanduser()
    known = {path.stem: path for path in SHELF.glob("*.safetensors")}
    wanted = name.removeprefix(PRETRAINED)
    if wanted not in known:
        raise UserError(f"{name} does not come with the package; {nearest(wanted, known)}")
    return known[wanted]


def write_file(
    path: Path, config: Config, params: PyTree | None, ema: PyTree, *, names: Sequence[str], step: int
) -> None:
    """Writes both sets of parameters, or the average alone, whole or not at all; refuses to replace a file."""
    if path.suffix != ".safetensors":
        raise UserError(f"{path.name} should end in .safetensors, as its kind is told by.")
    if path.exists():
        raise UserError(f"{path} exists; choose another name, or remove it.")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no folder; make it, or choose another place.")
    trees = {"ema": ema} if params is None else {"params": params, "ema": ema}
    tensors = {f"{which}.{name}": leaf for which, tree in trees.items() for name, leaf in flat(tree).items()}
    texts = {"config": to_json(config), "labels": json.dumps(list(names), ensure_ascii=False), "step": str(step)}
    write_tensors(path, tensors, {"format": FORMAT, **texts})


def _sets(file: TensorFile) -> tuple[str, ...]:
    """The sets of parameters in a file."""
    return SETS if any(name.startswith("params.") for name in file.shapes) else ("ema",)


def _names(metadata: Mapping[str, str], config: Config, path: Path) -> Sequence[str]:
    names = parse_label_names(metadata.get("labels", "[]"), f"{path}'s labels")
    if names and len(names) != len(numbered(config)):
        raise UserError(f"{path} names {len(names)} labels; expected {len(numbered(config))}, as many as it has.")
    return names or numbered(config)
