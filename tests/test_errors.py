import sys

import pytest

from ddpm_jax.errors import abbreviated, nearest, printable, program


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
