"""Conversion of a Config from and to ml_collections' ConfigDict, which recipes and flags use, and config.json."""

import dataclasses
import json
import typing
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from ddpm_jax.config.checks import checked
from ddpm_jax.config.field_types import value_type, without_none
from ddpm_jax.config.fields import FixedBy, Meaning, meanings
from ddpm_jax.config.sections import Config
from ddpm_jax.errors import UserError, nearest


def defaults() -> Any:
    """A ConfigDict of all fields with their defaults, for recipes; Any, since type checkers do not know its fields."""
    return to_config_dict(Config())


def to_config_dict(section: Any) -> ConfigDict:
    """A ConfigDict of a Config or section with every field; optional fields that are None become placeholders."""
    result = ConfigDict()
    for name, hint in typing.get_type_hints(type(section)).items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            value = to_config_dict(value)
        kind = value_type(hint)
        # A placeholder takes None besides; a field of several types keeps them.
        result[name] = config_dict.FieldReference(value, field_type=kind) if value is None or kind is object else value
    return result


def config_of(tree: ConfigDict | dict[str, Any]) -> Config:
    """A checked Config; missing fields get their defaults, unknown ones raise UserError."""
    return checked(section_of(Config, tree))


def section_of(kind: type, tree: Any, prefix: str = "") -> Any:
    """The Config or section of class `kind` with the values of a tree, unchecked; prefix: of field names in errors."""
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
        elif value == "" and without_none(hints[name])[1]:
            value = None  # As --config.data.filter= removes a filter.
        elif value_type(hints[name]) is float and type(value) is int:
            value = float(value)
        if hints[name] == tuple[float, ...] and isinstance(value, tuple):
            value = tuple(float(item) if type(item) is int else item for item in value)
        if hints[name] == int | tuple[int, int] and isinstance(value, tuple) and [*map(type, value)] == [int, int]:
            value = value[0] if value[0] == value[1] else value  # One spelling of a square, for comparisons.
        values[name] = value
    return kind(**values)


FORMAT = 2
"""Version of config.json. Format 1, which had no such entry, coded attributes as 1 and 0 for the network."""


def to_tree(config: Config) -> dict[str, Any]:
    """The format and every field of the Config, as `to_json` writes them."""
    return {"format": FORMAT} | dataclasses.asdict(config)


def to_json(config: Config) -> str:
    """The Config as indented JSON, every field included."""
    return json.dumps(to_tree(config), indent=2) + "\n"


def from_json(text: str, name: str) -> Config:
    """The Config that `to_json` wrote; name: of the file, for errors."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not valid JSON ({error}).") from error
    return from_tree(tree, name)


def from_tree(tree: Any, name: str) -> Config:
    """The Config of the tree that `to_tree` gave, read from JSON; changes it. name: of the file, for errors."""
    if isinstance(tree, dict):
        tree.pop("plan", None)  # Older versions also saved the options of --mode=plan.
    version = tree.pop("format", 1) if isinstance(tree, dict) else 1
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise UserError(f"{name} has format {version!r}; expected 1 to {FORMAT}. Install the ddpm_jax that wrote it.")
    try:
        config = config_of(tree)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    if version == 1 and config.model.attributes:
        raise UserError(
            f"{name} is of a model that was trained with attributes coded as 1/0, which are now +1/-1; train again in "
            "a new workdir."
        )
    return config


def flatten(section: Any, prefix: str = "") -> dict[str, Any]:
    """The value of every field of a Config or section by its dotted name, such as "model.channels"."""
    flat = {}
    for name, value in vars(section).items():
        flat |= flatten(value, f"{prefix}{name}.") if dataclasses.is_dataclass(value) else {prefix + name: value}
    return flat


@cache
def config_meanings() -> dict[str, Meaning]:
    """The meaning of every field of Config by its dotted name, with its section's `fixed_by` as a default."""
    found = {}
    for name, outer in meanings(Config).items():
        section = type(getattr(Config(), name))
        if not dataclasses.is_dataclass(section):
            found[name] = outer
            continue
        for inner, meaning in meanings(section).items():
            found[f"{name}.{inner}"] = dataclasses.replace(meaning, fixed_by=meaning.fixed_by or outer.fixed_by)
    return found


def fields_fixed_by(*causes: FixedBy) -> tuple[str, ...]:
    """The dotted names of the fields whose `fixed_by` is one of these causes."""
    return tuple(name for name, meaning in config_meanings().items() if meaning.fixed_by in causes)


def without_folders(config: Config) -> Config:
    """The Config with only the last part of each path that is read, and none that is written, to be published."""
    known = config_meanings()
    for name, value in flatten(config).items():
        if value is not None and (place := known[name].place):
            section, field = name.split(".")
            kept = Path(value).name if place == "read" else None
            inner = dataclasses.replace(getattr(config, section), **{field: kept})
            config = dataclasses.replace(config, **{section: inner})
    return config


def changes(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The fields that differ between two configurations, as {name: (old, new)}."""
    before, after = flatten(old), flatten(new)
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The changes that prevent a run that has begun from resuming."""
    free = fields_fixed_by("nothing")
    return {name: values for name, values in changes(old, new).items() if name not in free}


MOST_COMMAS = 20
"""Commas in a name that is still recognised."""


def split_names(text: str, field: str, is_name: Callable[[str], bool] = lambda text: False) -> list[str]:
    """The comma-separated names in a field's value; UserError for an empty name.

    is_name: whether a text is one name, commas and outer blanks included, such as "New York, NY"; the longest such name
    is taken, and blanks around others are not part of them.
    """
    pieces, names = text.split(","), []
    while pieces:
        longest = min(len(pieces), MOST_COMMAS + 1)
        joined = (",".join(pieces[:count]) for count in range(longest, 0, -1))
        either = (name for text in joined for name in (text, text.strip()))
        names.append(next(filter(is_name, either), pieces[0].strip()))
        del pieces[: names[-1].count(",") + 1]
    if not all(names):
        raise UserError(f"{field}={text!r} holds an empty name; leave out the comma.")
    return names
