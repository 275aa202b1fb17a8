"""Declaration of a field of the configuration: its default, its documentation and its uses, all in one place.

Every list of fields is derived with `fields_where`; none is kept by hand.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Annotated, Any, Literal, NamedTuple

FixedBy = Literal["parameters", "optimizer", "training", "nothing"]


@dataclasses.dataclass(frozen=True)
class Meaning:
    """Documentation and uses of a field."""

    text: str
    """The field's documentation."""
    fixed_by: FixedBy | None = None
    """The field cannot change once parameters or an optimizer state exist, or once training has begun; "nothing": a
    resumed run may change it; None: the default of its section."""
    samplers: tuple[str, ...] = ()
    """The samplers that use the field; () for all. For other samplers, only its default is allowed."""
    per_sampler: bool = False
    """Choosing another sampler resets the field to its default, as it does for every field with `samplers`."""
    tasks: tuple[str, ...] = ()
    """The values of sample.task that use the field; () for all. For other tasks, only its default is allowed."""
    ignored: bool = False
    """Other tasks ignore the field instead of refusing it, since recipes set it."""
    pixels: bool = False
    """The field changes the images of a seed, so it is part of the names of samples and evaluations."""
    option: bool = False
    """The field is an option of Run.sample, or of Run.inpaint if it is in `tasks`."""
    preview: bool = False
    """Previews during training use the field."""
    bound: bool = False
    """The variational bound of --mode=evaluate depends on the field."""
    place: Literal["read", "written"] | None = None
    """The field holds paths: "read" ones are published without their folders, "written" ones not at all."""


def field(default: Any, text: str, **meaning: Any) -> Any:
    """Declares a field of a section; text: its documentation; meaning: the other attributes of its `Meaning`."""
    return dataclasses.field(default=default, metadata={"meaning": Meaning(text, **meaning)})


option = partial(field, pixels=True, option=True)
"""Declares a field that changes samples and is also an option of Run.sample."""


def section(default: Any, *, fixed_by: FixedBy = "training") -> Any:
    """Declares a section of the configuration; fixed_by: the default for its fields."""
    return field(default, str(type(default).__doc__), fixed_by=fixed_by)


@cache
def meanings(section: type) -> dict[str, Meaning]:
    """The meaning of each field of a section, in the order of their declaration."""
    return {item.name: item.metadata["meaning"] for item in dataclasses.fields(section)}


def fields_where(section: Any, holds: Callable[[Meaning], bool]) -> tuple[str, ...]:
    """The names of the fields of a section (an instance) whose meaning satisfies a predicate."""
    return tuple(name for name, meaning in meanings(type(section)).items() if holds(meaning))


class Range(NamedTuple):
    """The valid values of a number, in words and as a predicate."""

    words: str
    holds: Callable[[Any], bool]


def at_least(low: int) -> Range:
    """Numbers of at least `low`."""
    return Range(f"at least {low}", lambda value: value >= low)


def between(low: int, high: int) -> Range:
    """Numbers from `low` to `high` inclusive."""
    return Range(f"{low} to {high}", lambda value: low <= value <= high)


def sides(image_size: int | tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an image size, which is a side or both."""
    return (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])


def _is_size(value: Any) -> bool:
    pair = (value,) if type(value) is int else value if isinstance(value, tuple) and len(value) == 2 else (0,)
    return all(type(side) is int and side >= 1 for side in pair)


def _is_interval(value: Any) -> bool:
    numbers = all(type(bound) in (int, float) and math.isfinite(bound) for bound in value)
    return numbers and (not value or (len(value) == 2 and value[0] < value[1]))


def _are_widths(values: Any) -> bool:
    numbers = all(type(value) is float and 0.0 < value <= WIDEST for value in values)
    return numbers and all(low < high for low, high in itertools.pairwise(values))


WIDEST = 0.28
"""Largest width of a power-function EMA; the mean of all parameters so far has 1 / sqrt(12) = 0.289."""
Count = Annotated[int, at_least(1)]
ImageSize = Annotated[int | tuple[int, int], Range("a side such as 64, or (height, width) such as (48, 80)", _is_size)]
Interval = Annotated[tuple[float, ...], Range("() or (lowest, highest), such as (0.0, 1.0)", _is_interval)]
EmaWidth = Annotated[float, Range(f"more than 0 and at most {WIDEST}", lambda value: 0.0 < value <= WIDEST)]
EmaWidths = Annotated[
    tuple[float, ...], Range(f"ascending numbers of more than 0 and at most {WIDEST}, such as (0.05, 0.1)", _are_widths)
]
Natural = Annotated[int, at_least(0)]
Seed = Annotated[int, between(0, 2**31 - 1)]
Frames = Annotated[int, between(0, 1000)]
Positive = Annotated[float, Range("more than 0", lambda value: value > 0)]
NonNegative = Annotated[float, at_least(0)]
UnitInterval = Annotated[float, between(0, 1)]
Share = Annotated[float, Range("at least 0 and less than 1", lambda value: 0 <= value < 1)]
PositiveShare = Annotated[float, Range("more than 0 and at most 1", lambda value: 0 < value <= 1)]
