"""Writes docs/configuration.md: every field of the configuration, from ddpm_jax/config/sections.py.

python scripts/write_reference.py
"""

import ast
import dataclasses
import inspect
import sys
import types
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
optional field back. Unknown names and bad values are refused in one line. This page is made of the comments in
[sections.py](../ddpm_jax/config/sections.py) by `python scripts/write_reference.py`.
"""


def reference() -> str:
    """The page."""
    from ddpm_jax.config.sections import Config

    parts = [INTRODUCTION, "## The run\n", table(Config, "")]
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(kind := type(field.default)):
            parts += [f"## {field.name}\n", f"{inspect.getdoc(kind)}\n", table(kind, f"{field.name}.")]
    return "\n".join(parts)


def table(section: type, prefix: str) -> str:
    """The fields of a section that are no sections themselves."""
    meanings, hints = comments(section), typing.get_type_hints(section, include_extras=True)
    lines = ["| field | default | values | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(section):
        if not dataclasses.is_dataclass(field.default):
            cells = [f"`{prefix}{field.name}`", f"`{field.default}`", in_words(hints[field.name])]
            lines.append(" | ".join([f"| {cells[0]}", *cells[1:], f"{meanings[field.name]} |"]))
    return "\n".join(lines) + "\n"


def comments(section: type) -> dict[str, str]:
    """The text below each field of a class."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(section)).body if isinstance(node, ast.ClassDef))
    found = {}
    for field, text in zip(body, body[1:], strict=False):
        explained = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and explained:
            found[field.target.id] = " ".join(str(text.value.value).split()).replace("|", "\\|")
    return found


def in_words(hint: Any) -> str:
    """What a field may hold."""
    from ddpm_jax.config import TYPE_NAMES
    from ddpm_jax.config.sections import Range

    kinds = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        (allowed,) = (note for note in kinds[1:] if isinstance(note, Range))
        return allowed.words
    if origin in (typing.Union, types.UnionType):
        words = [in_words(kind) for kind in kinds if kind is not type(None)]
        return " or ".join([*words, "None"])
    if origin is typing.Literal:
        return ", ".join(f"`{kind}`" for kind in kinds)
    return "whole numbers" if origin is tuple else TYPE_NAMES[hint]


if __name__ == "__main__":
    PAGE.write_text(reference())
    print(f"Wrote {PAGE.relative_to(ROOT)}")
