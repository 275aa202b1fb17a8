"""Requests for images: settings for another sampler, and folder names that are unique to a request."""

import dataclasses
import re
import zlib

from ddpm_jax.builders import build_pairs, sampling_spacing
from ddpm_jax.config import Config, checked
from ddpm_jax.config.fields import fields_where, meanings
from ddpm_jax.config.sections import Sample
from ddpm_jax.errors import UserError

LONGEST_NAME = 180
"""Maximum number of characters of a folder name; file systems allow about 250."""
ALWAYS_NAMED = ("sampler", "steps", "timesteps", "spacing", "seed")
"""Fields with their own format in a folder name."""


def reset(settings: Sample, *names: str) -> Sample:
    """The same settings with some fields at their defaults."""
    default = type(settings)()
    return dataclasses.replace(settings, **{name: getattr(default, name) for name in names})


def only_images(settings: Sample) -> Sample:
    """The same settings for the task "generate", with the fields of other tasks at their defaults."""
    return reset(settings, "task", *fields_where(settings, lambda meaning: bool(meaning.tasks)))


def sampler_fields(settings: Sample) -> tuple[str, ...]:
    """The fields whose values are specific to one sampler."""
    return fields_where(settings, lambda meaning: meaning.per_sampler or bool(meaning.samplers))


def for_sampler(settings: Sample, sampler: str) -> Sample:
    """The same settings with another sampler, and the fields specific to a sampler at their defaults."""
    if sampler == settings.sampler:
        return settings
    return dataclasses.replace(reset(settings, *sampler_fields(settings)), sampler=sampler)


def image_fields(settings: Sample) -> tuple[str, ...]:
    """The fields that newly generated images of a seed depend on."""
    return fields_where(settings, lambda meaning: meaning.pixels and not meaning.tasks)


def options_of(settings: Sample, task: str = "generate", *, batched: bool = True) -> tuple[str, ...]:
    """The options of Run.sample, or of the method for another task; batched: include those about batches."""
    return fields_where(
        settings, lambda meaning: meaning.option and task in (meaning.tasks or (task,)) and (batched or meaning.pixels)
    )


def sampler_and_steps(name: str, field: str) -> tuple[str, int | None]:
    """("ddim", 20) for "ddim:20", ("ddim", None) for "ddim"; field: the name of the field, for messages."""
    sampler, _, steps = name.partition(":")
    if steps and not steps.isdecimal():
        raise UserError(f"{field} names {name!r}; expected a sampler, or sampler:steps.")
    return sampler, int(steps) if steps else None


def with_sampler(config: Config, name: str, count: int, field: str) -> Config:
    """The configuration with another sampler, "ddim" or "ddim:20"; field: the name of the field, for messages."""
    sampler, steps = sampler_and_steps(name, field)
    settings = dataclasses.replace(for_sampler(config.sample, sampler), count=count)
    if steps:
        settings = dataclasses.replace(settings, steps=steps, timesteps=Sample().timesteps)
    try:
        changed = checked(dataclasses.replace(config, sample=settings))
        build_pairs(changed)  # Refuses impossible steps before other samplers run.
    except UserError as error:
        raise UserError(f"{field} names {name!r}: {error}") from error
    return changed


def sample_name(config: Config, step: int, count: int, given: bytes = b"") -> str:
    """A folder name that differs between any two calls whose images could differ.

    count: number of images in the folder; given: the pixels of the images that they are made from.
    """
    s = config.sample
    # A comparison uses these settings only in the row of this sampler, if there is one.
    names_sampler = s.task != "compare" or s != reset(s, *sampler_fields(s))
    steps = len(build_pairs(config))
    spacing = [] if s.timesteps or steps == config.diffusion.steps else [sampling_spacing(s)]
    sampler = [s.sampler, f"{steps}steps", *spacing] if names_sampler else []
    task = [] if s.task == "generate" else [s.task]
    parts = [str(step), *task, *sampler, f"seed{s.seed}", f"n{count}"]
    if s.timesteps:  # A list may be longer than a file name.
        parts.append(f"timesteps-{zlib.crc32(repr(s.timesteps).encode()):08x}")
    default = type(s)()
    for name, meaning in meanings(type(s)).items():
        used = meaning.pixels and s.task in (meaning.tasks or (s.task,)) and name not in ALWAYS_NAMED
        if used and getattr(s, name) != getattr(default, name):
            parts.append(f"{name}-{getattr(s, name)}")
    name = "-".join([*parts, *([f"of-{zlib.crc32(given):08x}"] if given else [])])
    plain = re.sub(r"[^\w.,+-]", "_", name)
    if plain == name and len(name) <= LONGEST_NAME:
        return name
    return f"{plain[:LONGEST_NAME]}-{zlib.crc32(name.encode()):08x}"
