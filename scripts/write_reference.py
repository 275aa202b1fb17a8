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

Every field of a run, with its default. A recipe (`configs/*.py`) sets some, `--config.SECTION.FIELD=VALUE` any. Tuples
are written `--config.model.multipliers="(1,2,4)"`, booleans `--config.data.flip=True`; `--config.data.filter=` takes an
optional field back. Unknown names and bad values are refused in one line. `python scripts/write_reference.py` makes
this page of [sections.py](../ddpm_jax/config/sections.py).
"""


def reference() -> str:
    """The page."""
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
    """The fields of a section that are no sections themselves."""
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
    """The fields that methods of a Run take as options."""
    from ddpm_jax.config.sections import Sample
    from ddpm_jax.generation.requests import options_of

    sampling = options_of(Sample())
    inpainting = [name for name in options_of(Sample(), "inpaint") if name not in sampling]
    lists = [", ".join(f"`{name}`" for name in names) for names in (sampling, inpainting)]
    return f"`Run.sample` takes as options {lists[0]}; `Run.inpaint` also takes {lists[1]}.\n"


def in_words(hint: Any) -> str:
    """The values that a field may have."""
    from ddpm_jax.config.checks import TYPE_NAMES, value_type, without_none
    from ddpm_jax.config.fields import Range

    hint, optional = without_none(hint)
    if typing.get_origin(hint) is typing.Literal:
        words = ", ".join(f"`{choice}`" for choice in typing.get_args(hint))
    elif value_type(hint) is tuple:
        words = "whole numbers"
    else:
        ranges = [note.words for note in typing.get_args(hint) if isinstance(note, Range)]
        words = ranges[0] if ranges else TYPE_NAMES[value_type(hint)]
    return f"{words} or None" if optional else words


if __name__ == "__main__":
    PAGE.write_text(reference())
    print(f"Wrote {PAGE.relative_to(ROOT)}")
