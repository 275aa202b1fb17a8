"""A filter selects what its logical expression means, or is refused."""

import itertools

import numpy as np
import pytest

from ddpm_jax.data.filters import evaluate_filter
from ddpm_jax.errors import UserError

TRUTH = np.array(list(itertools.product([False, True], repeat=3)))
MASKS = dict(zip(("A", "B_2", "it's new"), TRUTH.T, strict=True))


def holds(text: str) -> list[bool]:
    return evaluate_filter(text, MASKS, MASKS.__getitem__).tolist()


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("A", lambda a, b, c: a),
        ("~A", lambda a, b, c: not a),
        ("~~A", lambda a, b, c: a),
        ("A&B_2", lambda a, b, c: a and b),
        ("A | B_2 & ~A", lambda a, b, c: a or (b and not a)),
        ("(A | B_2) & ~A", lambda a, b, c: (a or b) and not a),
        ('~(A | "it\'s new") | B_2', lambda a, b, c: not (a or c) or b),
        (" ( ( 'A' ) ) ", lambda a, b, c: a),
        ('A & B_2 & "it\'s new" | ~A & ~B_2', lambda a, b, c: (a and b and c) or (not a and not b)),
    ],
)
def test_a_filter_selects_the_images_for_which_its_expression_is_true(text, meaning):
    assert holds(text) == [bool(meaning(*row)) for row in TRUTH]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("'t Hooft", "a quote is not closed; a name that begins with one needs quotes of the other kind"),
        ("it's | A", r"""there is no "it's"; did you mean "it's new"\?"""),
        ("", "a name is missing at its end"),
        ("A &", "a name is missing at its end"),
        ("| A", r"a name is missing before '\|'"),
        ("(A", "a parenthesis is not closed"),
        ("A)", r"'\)' is unexpected"),
        ("A B_2", "'B_2' is unexpected; join names with"),
        ("'A", "a quote is not closed"),
        ("~" * 500 + "A", "nested more than 100 deep"),
        ("(" * 500 + "A" + ")" * 500, "nested more than 100 deep"),
        ("B_3", r"there is no 'B_3'; did you mean B_2\?"),
        ("__import__('os')", "there is no '__import__'"),
    ],
)
def test_malformed_filters_and_unknown_names_are_refused(text, words):
    with pytest.raises(UserError, match=words):
        holds(text)


def test_suggestions_can_be_pasted_and_names_may_hold_quotes_and_outer_blanks():
    masks = dict.fromkeys(("O'Neil", "plain x", '5" disk', "a&b", " lead"), np.array([True]))
    for text in ("O'Neil", "O'Neil | O'Neil & A", "O'Neil & ( A | O'Neil )", " lead", '" lead" & A'):
        assert evaluate_filter(text, masks | {"A": np.array([True])}, lambda name: np.array([True]))
    for wrong, right in {"plain": '"plain x"', "5disk": "'5\" disk'", "ab": '"a&b"', "Neil": "O'Neil"}.items():
        with pytest.raises(UserError) as refused:
            evaluate_filter(f"{wrong} | {wrong}", masks, masks.__getitem__)
        assert str(refused.value).endswith(f"; did you mean {right}?")
        assert evaluate_filter(f"{right} & {right}", masks, masks.__getitem__)
