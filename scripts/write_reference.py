"""Writes docs/configuration.md: every field of the configuration, from ddpm_jax/config/sections.py.

python scripts/write_reference.py
"""

import dataclasses
import inspect
import sys
import typing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs" / "configuration.md"
INTRODUCTION = """\
# Configuration

Every field of a run, with its default. A recipe (`configs/*.py`) sets some fields, `--config.SECTION.FIELD=VALUE` any
field. Tuples are written `--config.model.multipliers="(1,2,4)"`, booleans `--config.data.flip=True`, and
`--config.data.filter=` unsets an optional field. Unknown names and invalid values are refused in one line. This page is
generated from [sections.py](../ddpm_jax/config/sections.py) by `python scripts/write_reference.py`.
"""


def reference() -> str:
    """The text of docs/configuration.md."""
    from ddpm_jax.commands.plan import PlanOptions
    from ddpm_jax.config.sections import Config

    parts = [INTRODUCTION, "## The run\n", table(Config, "")]
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(kind := type(field.default)):
            parts += [f"## {field.name}\n", f"{inspect.getdoc(kind)}\n", table(kind, f"{field.name}.")]
            if field.name == "sample":
                parts.append(options())
    parts += ["## Flags of --mode=plan\n", f"{inspect.getdoc(PlanOptions)}\n", table(PlanOptions, "--plan.")]
    return "\n".join(parts)


def table(section: type, prefix: str) -> str:
    """The table of a section's fields, without nested sections."""
    from ddpm_jax.config.fields import meanings

    hints = typing.get_type_hints(section, include_extras=True)
    lines = ["| field | default | values | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(section):
        if not dataclasses.is_dataclass(field.default):
            text = meanings(section)[field.name].text.replace("|", "\\|")
            cells = [f"`{prefix}{field.name}`", f"`{field.default}`", in_words(hints[field.name]), text]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def options() -> str:
    """The list of fields that are options of Run.sample and Run.inpaint."""
    from ddpm_jax.config.sections import Sample
    from ddpm_jax.generation.requests import options_of

    sampling = options_of(Sample())
    inpainting = [name for name in options_of(Sample(), "inpaint") if name not in sampling]
    lists = [", ".join(f"`{name}`" for name in names) for names in (sampling, inpainting)]
    return f"`Run.sample` takes as options {lists[0]}; `Run.inpaint` also takes {lists[1]}.\n"


def in_words(hint: Any) -> str:
    """The valid values of a field, in words."""
    from ddpm_jax.config.checks import TYPE_NAMES, value_type, without_none
    from ddpm_jax.config.fields import Range

    hint, optional = without_none(hint)
    if typing.get_origin(hint) is typing.Literal:
        words = ", ".join(f"`{choice}`" for choice in typing.get_args(hint))
    else:
        ranges = [note.words for note in typing.get_args(hint) if isinstance(note, Range)]
        plain = "whole numbers" if value_type(hint) is tuple else TYPE_NAMES[value_type(hint)]
        words = ranges[0] if ranges else plain
    return f"{words} or None" if optional else words


if __name__ == "__main__":
    PAGE.write_text(reference())
    print(f"Wrote {PAGE.relative_to(ROOT)}")
