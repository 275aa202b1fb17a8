"""Which images are asked for: samplers by name, and a folder name that tells any two requests apart."""

import dataclasses
import re
import zlib

from ddpm_jax.builders import build_pairs
from ddpm_jax.config import Config, checked
from ddpm_jax.config.checks import TASK_FIELDS
from ddpm_jax.config.sections import Sample
from ddpm_jax.errors import UserError

LONGEST_NAME = 180
"""Characters of a folder's name, of which file systems take about 250."""
NAMED = (
    *("order", "eta", "spacing", "final", "variance", "threshold", "percentile", "percentile_max", "keep_eps"),
    *("label", "guidance", "guidance_interval", "guidance_rescale", "ema"),
    *TASK_FIELDS,
)
"""Fields that a folder's name tells where they are not the default, besides those that it always tells."""
OF_THE_SAMPLER = ("steps", "timesteps", "spacing", "order", "eta", "variance", "keep_eps")
"""Fields that mean something else, or nothing, with another sampler."""


def only_images(settings: Sample) -> Sample:
    """The same settings for new images, whatever task they were for."""
    of_tasks = {name: getattr(Sample(), name) for name in ("task", *TASK_FIELDS)}
    return dataclasses.replace(settings, **of_tasks)


def for_sampler(settings: Sample, sampler: str) -> Sample:
    """The same settings with another sampler, to whose defaults the fields fall that are a sampler's own."""
    if sampler == settings.sampler:
        return settings
    own = {name: getattr(Sample(), name) for name in OF_THE_SAMPLER}
    return dataclasses.replace(settings, sampler=sampler, **own)


def names_in(text: str, field: str) -> list[str]:
    """The names in a field, which commas part; none may be empty."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"{field}={text!r} holds an empty name; leave out the comma.")
    return names


def sampler_and_steps(name: str, field: str) -> tuple[str, int | None]:
    """("ddim", 20) for "ddim:20", ("ddim", None) for "ddim"; field: where it stands."""
    sampler, _, steps = name.partition(":")
    if steps and not steps.isdecimal():
        raise UserError(f"{field} names {name!r}; expected a sampler, or sampler:steps.")
    return sampler, int(steps) if steps else None


def with_sampler(config: Config, name: str, count: int, field: str) -> Config:
    """The configuration with another sampler, given as "ddim" or with its steps as "ddim:20"; field: it stands in."""
    sampler, steps = sampler_and_steps(name, field)
    settings = dataclasses.replace(for_sampler(config.sample, sampler), count=count)
    if steps:
        settings = dataclasses.replace(settings, steps=steps, timesteps=Sample().timesteps)
    try:
        one = checked(dataclasses.replace(config, sample=settings))
        build_pairs(one)  # Raises now what would be found out after others were drawn.
    except UserError as error:
        raise UserError(f"{field} names {name!r}: {error}") from error
    return one


def sample_name(config: Config, step: int, count: int, given: bytes = b"") -> str:
    """A folder name that tells apart any two calls that could differ in a pixel.

    count: of the images that it will hold; given: the pixels of the images that they are made from.
    """
    s, default = config.sample, Sample()
    # A comparison heeds these settings in the row of this sampler, if it has one.
    of_the_sampler = s.task != "compare" or any(getattr(s, name) != getattr(default, name) for name in OF_THE_SAMPLER)
    sampler = [s.sampler, f"{len(build_pairs(config))}steps"] if of_the_sampler else []
    task = [] if s.task == "generate" else [s.task]
    parts = [str(step), *task, *sampler, f"seed{s.seed}", f"n{count}"]
    if s.timesteps:  # A list may be longer than a file name.
        parts.append(f"timesteps-{zlib.crc32(repr(s.timesteps).encode()):08x}")
    heeded = (name for name in NAMED if s.task in TASK_FIELDS.get(name, (s.task,)))
    parts += [f"{name}-{getattr(s, name)}" for name in heeded if getattr(s, name) != getattr(default, name)]
    name = "-".join([*parts, *([f"of-{zlib.crc32(given):08x}"] if given else [])])
    plain = re.sub(r"[^\w.,+-]", "_", name)
    if plain == name and len(name) <= LONGEST_NAME:
        return name
    return f"{plain[:LONGEST_NAME]}-{zlib.crc32(name.encode()):08x}"
