"""Config from and to the outside: ml_collections' ConfigDict, which recipes and flags speak, and config.json."""

import dataclasses
import json
import types
import typing
from typing import Any

from ml_collections import ConfigDict, config_dict

from ddpm_jax.config.checks import checked
from ddpm_jax.config.sections import Config, Model
from ddpm_jax.errors import UserError, nearest


def defaults() -> Any:
    """A ConfigDict of all fields with their default values, for a recipe to start from.

    Typed as Any, since a type checker cannot know the fields of a ConfigDict.
    """
    return to_config_dict(Config())


def to_config_dict(config: Config) -> ConfigDict:
    """A ConfigDict with every field, so that each can be a flag; optional ones that are None become placeholders."""

    def tree(section: Any) -> ConfigDict:
        result = ConfigDict()
        for name, kind in typing.get_type_hints(type(section)).items():
            value = getattr(section, name)
            if dataclasses.is_dataclass(value):
                value = tree(value)
            result[name] = config_dict.placeholder(_scalar_type(kind)) if value is None else value
        return result

    return tree(config)


def config_of(tree: ConfigDict | dict[str, Any]) -> Config:
    """A checked Config; missing fields keep their defaults, unknown ones are refused by name."""
    return checked(_section(Config, tree, ""))


def _section(kind: type, tree: Any, prefix: str) -> Any:
    if not isinstance(tree, (dict, ConfigDict)):
        raise UserError(f"{prefix.rstrip('.') or 'The configuration'} is {tree!r}; expected a table of fields.")
    hints = typing.get_type_hints(kind)
    values = {}
    for name in tree:
        if name not in hints:
            raise UserError(f"{prefix}{name} is not a field of the configuration; {nearest(str(name), hints)}")
        value = tree[name]
        if dataclasses.is_dataclass(hints[name]):
            value = _section(typing.cast(type, hints[name]), value, f"{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        elif value == "" and type(None) in typing.get_args(hints[name]):
            value = None  # As --config.data.filter= takes a filter back.
        elif float in (hints[name], *typing.get_args(hints[name])) and type(value) is int:
            value = float(value)
        values[name] = value
    return kind(**values)


def _scalar_type(kind: Any) -> type:
    """The type of an optional field's value: int for `int | None`, str for a choice of names."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kind = next(arg for arg in typing.get_args(kind) if arg is not type(None))
    return str if typing.get_origin(kind) is typing.Literal else kind


def optional_fields() -> dict[str, type]:
    """The fields that may be None, by their dotted names, with the type that they have otherwise."""
    return {
        f"{section}.{name}": _scalar_type(hint)
        for section, kind in typing.get_type_hints(Config).items()
        if dataclasses.is_dataclass(kind)
        for name, hint in typing.get_type_hints(kind).items()
        if type(None) in typing.get_args(hint)
    }


FORMAT = 2
"""Version of config.json. In format 1, which is not marked, attributes reached the network as 1 and 0."""


def to_tree(config: Config) -> dict[str, Any]:
    """Every field of the Config and the format, as `to_json` writes them."""
    return {"format": FORMAT} | dataclasses.asdict(config)


def to_json(config: Config) -> str:
    """The Config as indented JSON, every field included."""
    return json.dumps(to_tree(config), indent=2) + "\n"


def from_json(text: str, name: str) -> Config:
    """The Config of `to_json`'s text; `name` says in errors where it came from."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not valid JSON ({error}); every checkpoint of the run holds a copy.") from error
    version = tree.pop("format", 1) if isinstance(tree, dict) else 1
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise UserError(f"{name} has format {version!r}; expected 1 to {FORMAT}. Install the ddpm_jax that wrote it.")
    try:
        config = config_of(tree)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    if version == 1 and config.model.attributes:
        raise UserError(
            f"{name} is of a model that was trained when attributes were coded 1/0, which the network now receives as "
            "+1/-1; train anew in another workdir."
        )
    return config


def flatten(config: Config) -> dict[str, Any]:
    """Every field by its dotted name, such as "model.channels"."""
    flat = {}
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            flat |= {f"{name}.{inner}": inner_value for inner, inner_value in vars(value).items()}
        else:
            flat[name] = value
    return flat


MAY_CHANGE = (
    "checkpoint.",
    "log.",
    "plan.",
    "sample.",
    "evaluate.",
    "train.steps",
    "train.sharding",
    "train.max_bad_steps",
    "data.cache",
    "model.remat",
)
"""Fields that a run may resume with differently: they leave alone what was learned and what it was learned from."""


def changes(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configurations differ, as {name: (old, new)}."""
    before, after = flatten(old), flatten(new)
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Those changes that are not of MAY_CHANGE."""
    return {name: values for name, values in changes(old, new).items() if not name.startswith(MAY_CHANGE)}


MADE_WITH = (
    *("data.image_size", "data.channels", "diffusion.steps", "diffusion.schedule", "diffusion.beta_"),
    *("diffusion.zero_terminal_snr", "diffusion.prediction", "diffusion.variance"),
    *(f"model.{field.name}" for field in dataclasses.fields(Model) if field.name not in ("dropout", "dtype", "remat")),
)
"""Fields that parameters are good for one value of: another would make another network of them, or noise of images."""
