"""Which images a filter such as `Smiling & ~(Eyeglasses | Bald)` selects. It is parsed here, never evaluated as Python.

or   := and ("|" and)*        and := not ("&" not)*        not := "~" not | "(" or ")" | name
name := letters, digits and signs other than & | ~ ( ) and quotes; or any text in single or double quotes
"""

import re
from collections.abc import Callable, Collection

import numpy as np
from jaxtyping import Bool

from ddpm_jax.errors import UserError, nearest

Mask = Bool[np.ndarray, "N"]
TOKEN = re.compile(r"""\s*(?:([&|~()])|"([^"]*)"|'([^']*)'|([^\s&|~()"']+))""")
MAX_DEPTH = 100


def evaluate_filter(text: str, names: Collection[str], holds: Callable[[str], Mask]) -> Mask:
    """The images that satisfy the expression; holds(name) gives those that satisfy a single name.

    Raises UserError for what is no expression, and for names that do not exist.
    """
    tokens = _tokens(text)
    place = 0

    def next_is(sign: str) -> bool:
        nonlocal place
        found = place < len(tokens) and tokens[place] == (True, sign)
        place += found
        return found

    def either(depth: int) -> Mask:
        mask = both(depth)
        while next_is("|"):
            mask = mask | both(depth)
        return mask

    def both(depth: int) -> Mask:
        mask = one(depth)
        while next_is("&"):
            mask = mask & one(depth)
        return mask

    def one(depth: int) -> Mask:
        nonlocal place
        if depth > MAX_DEPTH:
            raise _wrong(text, f"it is nested more than {MAX_DEPTH} deep")
        if next_is("~"):
            return ~one(depth + 1)
        if next_is("("):
            mask = either(depth + 1)
            if not next_is(")"):
                raise _wrong(text, "a parenthesis is not closed")
            return mask
        if place == len(tokens) or tokens[place][0]:
            where = f"before {tokens[place][1]!r}" if place < len(tokens) else "at its end"
            raise _wrong(text, f"a name is missing {where}")
        name = tokens[place][1]
        place += 1
        if name not in names:
            raise UserError(f"data.filter={text!r}: there is no {name!r}; {nearest(name, names)}")
        return holds(name)

    mask = either(0)
    if place < len(tokens):
        raise _wrong(text, f"{tokens[place][1]!r} was not expected there; join names by & or |")
    return mask


def _tokens(text: str) -> list[tuple[bool, str]]:
    """Each sign or name, and whether it is a sign."""
    tokens, place = [], 0
    while text[place:].strip():
        match = TOKEN.match(text, place)
        if match is None:
            raise _wrong(text, "a quote is not closed")
        sign, *names = match.groups()
        tokens.append((sign is not None, sign or next((name for name in names if name is not None), "")))
        place = match.end()
    return tokens


def _wrong(text: str, what: str) -> UserError:
    return UserError(f"data.filter={text!r} cannot be understood: {what} (for example: Smiling & ~Eyeglasses).")
