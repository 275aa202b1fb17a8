"""Our own safetensors format: a whole model in one file, with raw and EMA parameters and the configuration.

params.<path> and ema.<path>, such as ema.down_0_block_0.conv_in.kernel   in Flax's layout (height, width, in, out)
metadata: format ("ddpm_jax"), config (JSON), labels (JSON), step

Files for sampling only, such as those in pretrained/, contain only the EMA parameters.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import PyTree

from ddpm_jax.builders import param_shapes
from ddpm_jax.config import Config, fields_fixed_by, flatten, from_json, to_json, without_folders
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.interop.runs import numbered
from ddpm_jax.interop.tensors import TensorFile, by_path, check_names, fill, flat, write_tensors
from ddpm_jax.workdir import parse_label_names

FORMAT = "ddpm_jax"
SETS = ("params", "ema")
PRETRAINED = "pretrained:"
"""Prefix of the name of a model that comes with the package."""
FOLDER = Path(__file__).parents[1] / "pretrained"


@dataclasses.dataclass(frozen=True)
class Saved:
    """A model in a file: its configuration, and its parameters, not yet loaded."""

    file: TensorFile
    config: Config
    names: Sequence[str]
    step: int
    """Number of training steps."""

    @property
    def fields(self) -> dict[str, object]:
        """The fields of the configuration that the parameters determine."""
        return {name: flatten(self.config)[name] for name in fields_fixed_by("parameters")}

    def tree(self, which: str) -> PyTree:
        """The EMA parameters ("ema") or raw parameters ("params"; EMA if the file has no others), float32."""
        first = which if which in _sets(self.file) else "ema"
        return fill(param_shapes(self.config), lambda path: self.file.load(f"{first}.{path}"))


def read_file(path: Path) -> Saved:
    """The model in a file that `write_file` wrote; raises UserError for other files and for other tensors."""
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
    """The file at a path, or of pretrained:NAME, a model that comes with the package."""
    if not name.startswith(PRETRAINED):
        return Path(name).expanduser()
    known = {path.stem: path for path in FOLDER.glob("*.safetensors")}
    wanted = name.removeprefix(PRETRAINED)
    if wanted not in known:
        raise UserError(f"{name} does not come with the package; {nearest(wanted, known)}")
    return known[wanted]


def write_file(
    path: Path, config: Config, params: PyTree | None, ema: PyTree, *, names: Sequence[str], step: int
) -> None:
    """Writes raw and EMA parameters, or for None only the latter, completely or not at all; never replaces a file."""
    if path.suffix != ".safetensors":
        raise UserError(f"{path.name} should end in .safetensors.")
    if path.exists():
        raise UserError(f"{path} exists; choose another name, or remove it.")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder; create it, or choose another.")
    trees = {"ema": ema} if params is None else {"params": params, "ema": ema}
    tensors = {f"{which}.{name}": leaf for which, tree in trees.items() for name, leaf in flat(tree).items()}
    texts = {
        "config": to_json(without_folders(config)),
        "labels": json.dumps(list(names), ensure_ascii=False),
        "step": str(step),
    }
    write_tensors(path, tensors, {"format": FORMAT, **texts})


def _sets(file: TensorFile) -> tuple[str, ...]:
    return SETS if any(name.startswith("params.") for name in file.shapes) else ("ema",)


def _names(metadata: Mapping[str, str], config: Config, path: Path) -> Sequence[str]:
    names = parse_label_names(metadata.get("labels", "[]"), f"{path}'s labels")
    if names and len(names) != config.label_width:
        raise UserError(f"{path} names {len(names)} labels; expected {config.label_width}, the number in its model.")
    return names or numbered(config)
