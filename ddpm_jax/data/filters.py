"""Filters such as `Smiling & ~(Eyeglasses | Bald)`, which are parsed here and never evaluated as Python.

or   := and ("|" and)*        and := not ("&" not)*        not := "~" not | "(" or ")" | name
name := any characters except spaces and & | ~ ( ), the first no quote; or any text in single or double quotes
"""

import re
from collections.abc import Callable, Collection

import numpy as np
from jaxtyping import Bool

from ddpm_jax.errors import UserError, nearest

Mask = Bool[np.ndarray, "N"]
TOKEN = re.compile(r"""\s*(?:([&|~()])|"([^"]*)"|'([^']*)'|([^\s&|~()"'][^\s&|~()]*))""")
MAX_DEPTH = 100


def evaluate_filter(text: str, names: Collection[str], holds: Callable[[str], Mask]) -> Mask:
    """The images that match the expression; holds(name) returns those that match a single name.

    A text that is a name as a whole needs no quotes. Raises UserError for malformed expressions and unknown names.
    """
    if whole := [name for name in (text, text.strip()) if name in names]:
        return holds(whole[0])
    tokens = _tokens(text)
    place = 0

    def accept(sign: str) -> bool:
        nonlocal place
        found = place < len(tokens) and tokens[place] == (True, sign)
        place += found
        return found

    def either(depth: int) -> Mask:
        mask = both(depth)
        while accept("|"):
            mask = mask | both(depth)
        return mask

    def both(depth: int) -> Mask:
        mask = one(depth)
        while accept("&"):
            mask = mask & one(depth)
        return mask

    def one(depth: int) -> Mask:
        nonlocal place
        if depth > MAX_DEPTH:
            raise _malformed(text, f"it is nested more than {MAX_DEPTH} deep")
        if accept("~"):
            return ~one(depth + 1)
        if accept("("):
            mask = either(depth + 1)
            if not accept(")"):
                raise _malformed(text, "a parenthesis is not closed")
            return mask
        if place == len(tokens) or tokens[place][0]:
            where = f"before {tokens[place][1]!r}" if place < len(tokens) else "at its end"
            raise _malformed(text, f"a name is missing {where}")
        name = tokens[place][1]
        place += 1
        if name not in names:
            raise UserError(f"data.filter={text!r}: there is no {name!r}; {nearest(name, names, _written)}")
        return holds(name)

    mask = either(0)
    if place < len(tokens):
        raise _malformed(text, f"{tokens[place][1]!r} is unexpected; join names with & or |, or quote spaces")
    return mask


def _tokens(text: str) -> list[tuple[bool, str]]:
    """Each operator or name, and whether it is an operator."""
    tokens, place = [], 0
    while text[place:].strip():
        match = TOKEN.match(text, place)
        if match is None:
            raise _malformed(text, "a quote is not closed; a name that begins with one needs quotes of the other kind")
        sign, *names = match.groups()
        tokens.append((sign is not None, sign or next((name for name in names if name is not None), "")))
        place = match.end()
    return tokens


def _written(name: str) -> str:
    """A name as a filter reads it, in quotes if it needs them."""
    match = TOKEN.fullmatch(name)
    if match and match[4] == name:
        return name
    return f"'{name}'" if '"' in name else f'"{name}"'


def _malformed(text: str, reason: str) -> UserError:
    return UserError(f"data.filter={text!r} is malformed: {reason} (a valid example: Smiling & ~Eyeglasses).")
