"""The types of fields, and checks of each value by itself; checks.py and sampling_checks.py compare fields."""

import dataclasses
import math
import types
import typing
from typing import Any

from ddpm_jax.config.fields import Range
from ddpm_jax.errors import UserError, nearest

TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    tuple: "whole numbers such as (1, 2, 2)",
    object: "a side such as 64, or (height, width) such as (48, 80)",
}


def field_types(kind: type, prefix: str = "") -> dict[str, Any]:
    """The type of every field of Config or a section by its dotted name, such as "model.channels"."""
    types = {}
    for name, hint in typing.get_type_hints(kind).items():
        nested = dataclasses.is_dataclass(hint)
        types |= field_types(typing.cast(type, hint), f"{prefix}{name}.") if nested else {prefix + name: hint}
    return types


def check_fields(section: Any, prefix: str = "") -> None:
    """Refuses values of a wrong type or out of range in a Config or section; prefix: of field names in errors."""
    for name, hint in typing.get_type_hints(type(section), include_extras=True).items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            check_fields(value, f"{name}.")
        else:
            _check_value(hint, value, prefix + name)


def _check_value(hint: Any, value: Any, name: str) -> None:
    hint, optional = without_none(hint)
    if optional and value is None:
        return
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices or type(value) is bool:
            raise UserError(f"{name}={value!r} does not exist; {nearest(str(value), map(str, choices))}")
        return
    kind = value_type(hint)
    sound = type(value) is kind or (kind is object and type(value) in (int, tuple))
    if hint == tuple[int, ...]:
        sound = sound and all(type(item) is int for item in value)
    elif kind is float:
        sound = sound and math.isfinite(value)
    ranges = [note for note in typing.get_args(hint) if isinstance(note, Range)]
    if not sound:
        expected = ranges[0].words if ranges and kind is tuple else TYPE_NAMES[kind]
        raise UserError(f"{name}={value!r} has the wrong type; expected {expected}.")
    for allowed in ranges:
        if not allowed.holds(value):
            raise UserError(f"{name}={value} is out of range; expected {allowed.words}.")


def without_none(hint: Any) -> tuple[Any, bool]:
    """A field's type without None, and whether the field may be None."""
    kinds = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union) and type(None) in kinds:
        (kind,) = (kind for kind in kinds if kind is not type(None))
        return kind, True
    return hint, False


def value_type(hint: Any) -> type:
    """The type of a field's value when it is not None: int for `Count | None`, str for a choice of names."""
    hint, _ = without_none(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return type(typing.get_args(hint)[0])
    if origin is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is types.UnionType:
        return object  # As ml_collections calls what may have several types.
    return typing.get_origin(hint) or hint
