"""The one exception that is the user's to mend: `cli.py` prints its single line and exits with 2."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What is wrong, what was got, what was expected, and what to do about it, in one line."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that does not exist: the near matches, or all the names there are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(known)}."
