"""The exceptions that `exit_codes.py` turns into one line, and what helps to word them.

UserError exits with 2, TrainingDiverged with 1.
"""

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """What is wrong, what was got, what was expected, and what to do about it, in one line."""


class TrainingDiverged(Exception):
    """The loss stopped being a number: at which step, what was saved before, what to try, in one line."""


def program() -> str:
    """What people type to run this, as the messages that tell the next command write it."""
    return "ddpm-jax" if Path(sys.argv[0]).name == "ddpm-jax" else "python main.py"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that does not exist: the near matches, or all the names there are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(known)}."


def abbreviated(names: Iterable[str], shown: int = 5) -> str:
    """The first few names in words, and how many more there are."""
    names = [printable(name) for name in names]
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def printable(name: str) -> str:
    """A file name with those of its bytes that are not UTF-8 written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
