"""Requests for images: settings of another sampler, and a folder name that tells any two requests apart."""

import dataclasses
import re
import zlib
from typing import Any

from ddpm_jax.builders import build_pairs
from ddpm_jax.config import Config, checked
from ddpm_jax.config.fields import fields_where, meanings
from ddpm_jax.config.sections import Sample
from ddpm_jax.errors import UserError

LONGEST_NAME = 180
"""Characters of a folder's name, of which file systems take about 250."""
ALWAYS_NAMED = ("sampler", "steps", "timesteps", "seed")
"""Fields that a folder's name tells in a form of their own."""


def reset(settings: Sample, *names: str) -> Sample:
    """The same settings with some fields at their defaults."""
    default = type(settings)()
    return dataclasses.replace(settings, **{name: getattr(default, name) for name in names})


def only_images(settings: Sample) -> Sample:
    """The same settings for new images, without those of another task."""
    return reset(settings, "task", *fields_where(settings, lambda meaning: bool(meaning.tasks)))


def sampler_fields(settings: Sample) -> tuple[str, ...]:
    """The fields whose values suit one sampler alone, and mean something else, or nothing, to another."""
    return fields_where(settings, lambda meaning: meaning.per_sampler or bool(meaning.samplers))


def for_sampler(settings: Sample, sampler: str) -> Sample:
    """The same settings with another sampler, and the fields that suit one sampler at their defaults."""
    if sampler == settings.sampler:
        return settings
    return dataclasses.replace(reset(settings, *sampler_fields(settings)), sampler=sampler)


def image_fields(settings: Sample) -> tuple[str, ...]:
    """The fields on which new images of a seed depend."""
    return fields_where(settings, lambda meaning: meaning.pixels and not meaning.tasks)


def options_of(settings: Sample, task: str = "generate", *, batched: bool = True) -> tuple[str, ...]:
    """The options of Run.sample, or of a method for another task; batched: those about batches, too."""
    return fields_where(
        settings, lambda meaning: meaning.option and task in (meaning.tasks or (task,)) and (batched or meaning.pixels)
    )


def sampler_and_steps(name: str, field: str) -> tuple[str, int | None]:
    """("ddim", 20) for "ddim:20", ("ddim", None) for "ddim"; field: the name of the field that holds it."""
    sampler, _, steps = name.partition(":")
    if steps and not steps.isdecimal():
        raise UserError(f"{field} names {name!r}; expected a sampler, or sampler:steps.")
    return sampler, int(steps) if steps else None


def with_sampler(config: Config, name: str, count: int, field: str) -> Config:
    """The configuration with another sampler, given as "ddim" or "ddim:20"; field: that holds the name."""
    sampler, steps = sampler_and_steps(name, field)
    settings = dataclasses.replace(for_sampler(config.sample, sampler), count=count)
    if steps:
        settings = dataclasses.replace(settings, steps=steps, timesteps=Sample().timesteps)
    try:
        one = checked(dataclasses.replace(config, sample=settings))
        build_pairs(one)  # Steps that do not exist are refused before other samplers have drawn.
    except UserError as error:
        raise UserError(f"{field} names {name!r}: {error}") from error
    return one


def sample_name(config: Config, step: int, count: int, given: bytes = b"") -> str:
    """A folder name that tells apart any two calls that could differ in a pixel.

    count: of the images that it will hold; given: the pixels of the images that they are made from.
    """
    s = config.sample
    # A comparison uses these settings in the row of this sampler, if it has one.
    names_sampler = s.task != "compare" or s != reset(s, *sampler_fields(s))
    sampler = [s.sampler, f"{len(build_pairs(config))}steps"] if names_sampler else []
    task = [] if s.task == "generate" else [s.task]
    parts = [str(step), *task, *sampler, f"seed{s.seed}", f"n{count}"]
    if s.timesteps:  # A list may be longer than a file name.
        parts.append(f"timesteps-{zlib.crc32(repr(s.timesteps).encode()):08x}")
    parts += [f"{name}-{value}" for name, value in _named(s)]
    name = "-".join([*parts, *([f"of-{zlib.crc32(given):08x}"] if given else [])])
    plain = re.sub(r"[^\w.,+-]", "_", name)
    if plain == name and len(name) <= LONGEST_NAME:
        return name
    return f"{plain[:LONGEST_NAME]}-{zlib.crc32(name.encode()):08x}"


def _named(settings: Sample) -> list[tuple[str, Any]]:
    """The fields that a folder's name tells, since they change what the task draws and are not the default."""
    default, named = type(settings)(), []
    for name, meaning in meanings(type(settings)).items():
        used = meaning.pixels and settings.task in (meaning.tasks or (settings.task,))
        if used and name not in ALWAYS_NAMED and getattr(settings, name) != getattr(default, name):
            named.append((name, getattr(settings, name)))
    return named
