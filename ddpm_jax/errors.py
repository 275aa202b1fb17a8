"""The exceptions that `exit_codes.py` turns into one line, and helpers for their messages.

UserError exits with 2, TrainingDiverged with 1.
"""

import difflib
import operator
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from typing import Any

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Characters that end lines, command terminals, or cannot be written as UTF-8."""


class UserError(Exception):
    """A mistake that the user can correct; the message is one line: what, got, expected, remedy."""


class TrainingDiverged(Exception):
    """The loss or the state is not finite; the message is one line: the step, the last checkpoint, what to try."""


def program() -> list[str]:
    """The words of the command that starts this program, for messages that suggest the next command."""
    return ["ddpm-jax"] if Path(sys.argv[0]).name == "ddpm-jax" else ["python", str(script("main.py"))]


def script(name: str) -> Path:
    """The path of a program of this checkout, such as "scripts/export_safetensors.py", from the current folder.

    Without a checkout, as where only the package is installed, it is the name.
    """
    path, here = Path(__file__).resolve().parents[1] / name, Path.cwd()
    if not path.exists():
        return Path(name)
    return path.relative_to(here) if path.is_relative_to(here) else path


def shell_command(*words: object) -> str:
    """A command as a shell reads it, for messages: words that the shell would take apart are quoted.

    A Path that begins with "-" gets "./" in front, since programs would take it for a flag. Flags alone are those of
    this program: shell_command("--workdir=a b") is "python main.py '--workdir=a b'".
    """
    own = program() if str(words[0]).startswith("--") else []
    paths = (f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words)
    return shlex.join([*own, *paths])


def copy_command(source: PurePath, target: PurePath) -> str:
    """The command that copies a file, or a sentence for a URL, for messages."""
    return shell_command("cp", source, target) if isinstance(source, Path) else f"copy {source} to {target}"


def whole_number(name: str, value: Any) -> int:
    """A whole number, which may be one of NumPy's; raises UserError for any other value of this name."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise UserError(f"{name}={value!r} has the wrong type; expected a whole number.") from error


def nearest(name: str, known: Iterable[str], written: Callable[[str], str] | None = None) -> str:
    """A hint for an unknown name: similar names, or all known names.

    written: how to write a known name where the unknown one stands; by default in quotes if it holds blanks or commas.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3)
    shown = list(map(written, near or known)) if written else quoted(near or known, r"[,\s]")
    return f"did you mean {' or '.join(shown)}?" if near else f"expected one of {', '.join(shown)}."


def quoted(names: Iterable[str], unclear: str = r",|^\s|\s$") -> list[str]:
    """The names, in quotes if one of them matches the pattern `unclear`, so that they can be told apart in a list."""
    names = list(names)
    return [repr(name) for name in names] if any(re.search(unclear, name) for name in names) else names


def abbreviated(names: Iterable[str], shown: int = 5) -> str:
    """The first few names, and the number of further ones."""
    return shortened(quoted(map(printable, names)), shown)


def shortened(phrases: Iterable[str], shown: int = 5) -> str:
    """The first few phrases, and the number of further ones."""
    phrases = list(phrases)
    more = f" and {len(phrases) - shown} more" if len(phrases) > shown else ""
    return ", ".join(phrases[:shown]) + more


def printable(name: str) -> str:
    """A name on one line: control characters, and bytes that are not UTF-8, are written as escapes."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), name)
