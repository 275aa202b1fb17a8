"""Subsets and conditions: classes, filters, shares; and what the model is told, with its names."""

import itertools

import numpy as np
import pytest

from ddpm_jax.config import config_of
from ddpm_jax.data.annotations import annotate
from ddpm_jax.data.filters import evaluate_filter
from ddpm_jax.data.select import conditions, select_rows
from ddpm_jax.errors import UserError
from tests.data.pictures import data

TRUTH = np.array(list(itertools.product([False, True], repeat=3)))
MASKS = dict(zip(("A", "B_2", "it's new"), TRUTH.T, strict=True))
ANIMALS = annotate(
    12, ["cat", "dog", "emu"] * 4, {"big": [0, 1] * 6, "wild one": [1] * 3 + [0] * 9, "odd": [1, 0, 0] * 4}
)


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
def test_filters_mean_what_logic_says(text, meaning):
    assert holds(text) == [bool(meaning(*row)) for row in TRUTH]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a name is missing at its end"),
        ("A &", "a name is missing at its end"),
        ("| A", r"a name is missing before '\|'"),
        ("(A", "a parenthesis is not closed"),
        ("A)", r"'\)' was not expected"),
        ("A B_2", "'B_2' was not expected there; join names by"),
        ("'A", "a quote is not closed"),
        ("~" * 500 + "A", "nested more than 100 deep"),
        ("(" * 500 + "A" + ")" * 500, "nested more than 100 deep"),
        ("B_3", r"there is no 'B_3'; did you mean B_2\?"),
        ("__import__('os')", "there is no '__import__'"),
    ],
)
def test_what_is_no_filter_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        holds(text)


def test_classes_and_filters_select():
    def rows(**options):
        return select_rows(data(**options), ANIMALS, "here").tolist()

    assert rows() == list(range(12))
    assert rows(classes="dog, cat") == [0, 1, 3, 4, 6, 7, 9, 10]
    assert rows(filter="big & ~cat") == [1, 5, 7, 11]
    assert rows(filter='"wild one"', classes="emu") == [2]
    assert rows(first=4) == [0, 1, 2, 3]
    for options, words in [
        ({"filter": "cat & dog"}, r"data.filter='cat & dog' leaves none of the 12 images of here"),
        ({"classes": "emu", "filter": "cat"}, r"data.classes='emu' and data.filter='cat' leaves none"),
        ({"classes": "cats"}, r"data.classes='cats': there is no 'cats'; did you mean cat\?"),
        ({"filter": "Big"}, r"there is no 'Big'; did you mean big\?"),
    ]:
        with pytest.raises(UserError, match=words):
            rows(**options)
    bare = annotate(5)
    with pytest.raises(UserError, match="needs classes or attributes, and here has none"):
        select_rows(data(filter="A"), bare, "here")
    with pytest.raises(UserError, match="data.classes='A': here has no classes"):
        select_rows(data(classes="A"), bare, "here")


def test_a_share_is_drawn_by_its_seed_and_fair_to_all_classes():
    many = annotate(3000, ["a"] * 1000 + ["b"] * 1000 + ["c"] * 1000)

    def rows(**options):
        return select_rows(data(**options), many, "here")

    third = rows(fraction=1 / 3)
    assert len(third) == 1000 and len(set(third)) == 1000 and np.all(np.diff(third) > 0)
    assert np.all(np.abs(np.bincount(many.classes[third]) - 333) < 60)
    np.testing.assert_array_equal(third, rows(fraction=1 / 3))
    assert not np.array_equal(third, rows(fraction=1 / 3, fraction_seed=1))
    # A larger share of the same seed holds the smaller one.
    assert set(rows(fraction=0.1)) <= set(rows(fraction=0.5))
    assert len(rows(fraction=1e-9)) == 1


def test_the_first_images_may_leave_classes_out_and_this_is_said(package_log):
    select_rows(data(first=2), annotate(4, ["a", "a", "b", "b"]), "here")
    assert "data.first=2 leaves out 1 classes" in package_log.text


def told(annotations=ANIMALS, *, model=None, **options):
    config = config_of({"data": options, "model": model or {}})
    rows = select_rows(config.data, annotations, "here")
    return conditions(config, annotations.take(rows), "here")


def test_classes_are_told_by_number_among_those_chosen():
    labels, names = told(model={"classes": 3})
    assert names == ("cat", "dog", "emu") and labels.tolist() == [0, 1, 2] * 4
    labels, names = told(classes="emu,cat", model={"classes": 2})
    assert names == ("cat", "emu") and labels.tolist() == [0, 1] * 4
    for model, words in [
        ({"classes": 2}, r"model.classes=2, but the data has 3 \(cat, dog, emu\); set it to that"),
        ({"attributes": 2}, r"model.attributes=2, but the data has 3 \(big, wild one, odd\)"),
    ]:
        with pytest.raises(UserError, match=words):
            told(model=model)
    for model, words in [({"classes": 2}, "has no classes"), ({"attributes": 1}, "has no attributes")]:
        with pytest.raises(UserError, match=words):
            told(annotate(5), model=model)


def test_attributes_are_told_as_zeros_and_ones_in_the_order_asked_for():
    labels, names = told(attributes="odd, big", model={"attributes": 2})
    assert names == ("odd", "big") and labels.tolist() == [[1, 0], [0, 1], [0, 0], [1, 1], [0, 0], [0, 1]] * 2
    assert told(model={"attributes": 3})[1] == ("big", "wild one", "odd")
    with pytest.raises(UserError, match=r"data.attributes='odd,bigg': there is no 'bigg'; did you mean big\?"):
        told(attributes="odd,bigg", model={"attributes": 2})
    with pytest.raises(UserError, match=r"data.attributes='odd,big' chooses 2, but model.attributes=3"):
        told(attributes="odd,big", model={"attributes": 3})
