"""How a field of the configuration is declared: its default, its documentation and what it is for, all in one place.

Whoever needs a list of fields derives it with `fields_where`; no list is kept by hand.
"""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Annotated, Any, Literal, NamedTuple

FixedBy = Literal["parameters", "optimizer", "training", "nothing"]


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What a field is for."""

    text: str
    """The field's documentation."""
    fixed_by: FixedBy | None = None
    """The field cannot change once parameters or an optimizer state exist, or once training has begun; "nothing": a
    resumed run may change it; None: as its section says."""
    samplers: tuple[str, ...] = ()
    """The samplers that use the field; () for all. With others, any value but the default is refused."""
    per_sampler: bool = False
    """The value suits one sampler, so choosing another resets it; so it is wherever `samplers` lists some, too."""
    tasks: tuple[str, ...] = ()
    """The values of sample.task that use the field; () for all. With others, any value but the default is refused."""
    ignored: bool = False
    """With other tasks the field is ignored rather than refused, since recipes set it."""
    pixels: bool = False
    """The field changes what is drawn for a seed: folders of samples and evaluations tell its values apart."""
    option: bool = False
    """The field is an option of Run.sample, or of Run.inpaint where `tasks` says so."""
    preview: bool = False
    """Previews while training use the field."""
    bound: bool = False
    """The variational bound of --mode=evaluate depends on the field."""


def field(default: Any, text: str, **meaning: Any) -> Any:
    """A field of a section with its default and documentation; meaning: the other attributes of its `Meaning`."""
    return dataclasses.field(default=default, metadata={"meaning": Meaning(text, **meaning)})


option = partial(field, pixels=True, option=True)
"""A setting of sampling, which Run.sample takes too."""


def section(default: Any, *, fixed_by: FixedBy = "training") -> Any:
    """A section of the configuration; fixed_by: for those of its fields that do not say it themselves."""
    return field(default, str(type(default).__doc__), fixed_by=fixed_by)


@cache
def meanings(section: type) -> dict[str, Meaning]:
    """The meaning of each field of a section, in the order of their declaration."""
    return {item.name: item.metadata["meaning"] for item in dataclasses.fields(section)}


def fields_where(section: Any, holds: Callable[[Meaning], bool]) -> tuple[str, ...]:
    """The names of the fields of a section (an instance) whose meaning passes a test."""
    return tuple(name for name, meaning in meanings(type(section)).items() if holds(meaning))


class Range(NamedTuple):
    """The values a number may take, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def at_least(low: int) -> Range:
    """Numbers from `low` on."""
    return Range(f"at least {low}", lambda value: value >= low)


def between(low: int, high: int) -> Range:
    """Numbers from `low` to `high`, both included."""
    return Range(f"{low} to {high}", lambda value: low <= value <= high)


Count = Annotated[int, at_least(1)]
Natural = Annotated[int, at_least(0)]
Seed = Annotated[int, between(0, 2**31 - 1)]
Frames = Annotated[int, between(0, 1000)]
Positive = Annotated[float, Range("more than 0", lambda value: value > 0)]
NonNegative = Annotated[float, at_least(0)]
UnitInterval = Annotated[float, between(0, 1)]
Share = Annotated[float, Range("at least 0 and less than 1", lambda value: 0 <= value < 1)]
PositiveShare = Annotated[float, Range("more than 0 and at most 1", lambda value: 0 < value <= 1)]
