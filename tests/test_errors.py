import sys

import numpy as np
import pytest

from ddpm_jax.errors import UserError, abbreviated, nearest, printable, program, whole_number


def test_whole_numbers_may_be_numpys_and_other_values_are_refused():
    assert whole_number("count", np.int64(3)) == whole_number("count", 3) == 3
    for value in (2.0, "2", None):
        with pytest.raises(UserError, match=f"count={value!r} has the wrong type; expected a whole number"):
            whole_number("count", value)


def test_an_unknown_name_gets_similar_names_or_else_all():
    assert nearest("ddpn", ["unipc", "ddpm"]) == "did you mean ddpm?"
    assert nearest("heun", ["unipc", "ddpm"]) == "expected one of ddpm, unipc."
    assert nearest("x", ["b, c", "a"]) == "expected one of 'a', 'b, c'."


def test_long_lists_of_names_are_abbreviated():
    assert abbreviated("abcde") == "a, b, c, d, e"
    assert abbreviated("abcdefg", shown=2) == "a, b and 5 more"
    assert abbreviated(["a, b", "c"]) == "'a, b', 'c'"


def test_names_that_are_not_utf8_can_be_printed():
    assert printable("Bäume") == "Bäume"
    assert printable(b"\xff.png".decode(errors="surrogateescape")).isascii()


def test_a_printed_name_is_one_line_and_no_command_to_the_terminal():
    assert printable("a\nb\x1b[31m\x9b\u2028\x7f") == r"a\nb\x1b[31m\x9b\u2028\x7f"
    assert printable("Katze\u202fü 👩‍🚀") == "Katze\u202fü 👩‍🚀"


@pytest.mark.parametrize(
    ("argument", "command"), [("/usr/bin/ddpm-jax", ["ddpm-jax"]), ("main.py", ["python", "main.py"])]
)
def test_messages_name_the_command_that_was_used(monkeypatch, argument, command):
    monkeypatch.setattr(sys, "argv", [argument])
    assert program() == command
