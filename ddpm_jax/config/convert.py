"""Config from and to the outside: ml_collections' ConfigDict, which recipes and flags speak, and config.json."""

import dataclasses
import json
import typing
from functools import cache
from typing import Any

from ml_collections import ConfigDict, config_dict

from ddpm_jax.config.checks import checked, value_type
from ddpm_jax.config.fields import FixedBy, Meaning, meanings
from ddpm_jax.config.sections import Config
from ddpm_jax.errors import UserError, nearest


def defaults() -> Any:
    """A ConfigDict of all fields with their default values, for a recipe to start from.

    Typed as Any, since a type checker cannot know the fields of a ConfigDict.
    """
    return to_config_dict(Config())


def to_config_dict(section: Any) -> ConfigDict:
    """A ConfigDict of a Config, or of a section, with every field; optional ones that are None become placeholders."""
    result = ConfigDict()
    for name, hint in typing.get_type_hints(type(section)).items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            value = to_config_dict(value)
        result[name] = config_dict.placeholder(value_type(hint)) if value is None else value
    return result


def config_of(tree: ConfigDict | dict[str, Any]) -> Config:
    """A checked Config; missing fields keep their defaults, unknown ones are refused by name."""
    return checked(section_of(Config, tree))


def section_of(kind: type, tree: Any, prefix: str = "") -> Any:
    """The Config or section (of class `kind`) that a table holds, values unchecked; prefix: of names in errors."""
    if not isinstance(tree, (dict, ConfigDict)):
        raise UserError(f"{prefix.rstrip('.') or 'The configuration'} is {tree!r}; expected a table of fields.")
    hints = typing.get_type_hints(kind)
    values = {}
    for name in tree:
        if name not in hints:
            raise UserError(f"{prefix}{name} is not a field of the configuration; {nearest(str(name), hints)}")
        value = tree[name]
        if dataclasses.is_dataclass(hints[name]):
            value = section_of(typing.cast(type, hints[name]), value, f"{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        elif value == "" and is_optional(hints[name]):
            value = None  # As --config.data.filter= takes a filter back.
        elif value_type(hints[name]) is float and type(value) is int:
            value = float(value)
        values[name] = value
    return kind(**values)


def is_optional(hint: Any) -> bool:
    """Whether a field of this type may be None."""
    return type(None) in typing.get_args(hint)


def field_types(kind: type, prefix: str = "") -> dict[str, Any]:
    """The type of every field of Config, or of a section, by its dotted name, such as "model.channels"."""
    types = {}
    for name, hint in typing.get_type_hints(kind).items():
        nested = dataclasses.is_dataclass(hint)
        types |= field_types(typing.cast(type, hint), f"{prefix}{name}.") if nested else {prefix + name: hint}
    return types


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
    if isinstance(tree, dict):
        tree.pop("plan", None)  # Runs of older versions saved the options of --mode=plan, too.
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


def flatten(section: Any, prefix: str = "") -> dict[str, Any]:
    """Every field of a Config, or of a section, by its dotted name, such as "model.channels"."""
    flat = {}
    for name, value in vars(section).items():
        flat |= flatten(value, f"{prefix}{name}.") if dataclasses.is_dataclass(value) else {prefix + name: value}
    return flat


@cache
def config_meanings() -> dict[str, Meaning]:
    """The meaning of every field of Config by its dotted name, completed by what its section says."""
    found = {}
    for name, outer in meanings(Config).items():
        value = getattr(Config(), name)
        if dataclasses.is_dataclass(value):
            for inner, meaning in meanings(type(value)).items():
                fixed_by = meaning.fixed_by or outer.fixed_by
                found[f"{name}.{inner}"] = dataclasses.replace(meaning, fixed_by=fixed_by)
        else:
            found[name] = outer
    return found


def fields_fixed_by(*causes: FixedBy) -> tuple[str, ...]:
    """The dotted names of the fields that one of these fixes: "parameters", "optimizer", "training" or "nothing"."""
    return tuple(name for name, meaning in config_meanings().items() if meaning.fixed_by in causes)


def changes(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configurations differ, as {name: (old, new)}."""
    before, after = flatten(old), flatten(new)
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Those changes with which a run that has begun cannot resume."""
    free = fields_fixed_by("nothing")
    return {name: values for name, values in changes(old, new).items() if name not in free}


def split_names(text: str, field: str) -> list[str]:
    """The names in a field's text, which commas separate; none may be empty."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"{field}={text!r} holds an empty name; leave out the comma.")
    return names
