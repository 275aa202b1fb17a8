"""Subsets by class, filter and share, and the labels that the model is conditioned on."""

import numpy as np
import pytest

from ddpm_jax.config import config_of
from ddpm_jax.data.annotations import annotate
from ddpm_jax.data.select import conditions, select_rows
from ddpm_jax.errors import UserError
from tests.data.pictures import data

ANIMALS = annotate(
    12, ["cat", "dog", "emu"] * 4, {"big": [0, 1] * 6, "wild one": [1] * 3 + [0] * 9, "odd": [1, 0, 0] * 4}
)


def test_classes_filters_and_first_select_rows():
    def rows(**options):
        return select_rows(data(**options), ANIMALS, "here").tolist()

    assert rows() == list(range(12))
    assert rows(classes="dog, cat") == [0, 1, 3, 4, 6, 7, 9, 10]
    assert rows(filter="big & ~cat") == [1, 5, 7, 11]
    assert rows(filter='"wild one"', classes="emu") == [2]
    assert rows(first=4) == [0, 1, 2, 3]
    for options, words in [
        ({"filter": "cat & dog"}, r"data.filter='cat & dog' selects none of the 12 images of here"),
        ({"classes": "emu", "filter": "cat"}, r"data.classes='emu' and data.filter='cat' selects none"),
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


def test_a_fraction_is_a_random_sample_of_all_classes_that_depends_on_its_seed():
    many = annotate(3000, ["a"] * 1000 + ["b"] * 1000 + ["c"] * 1000)

    def rows(**options):
        return select_rows(data(**options), many, "here")

    third = rows(fraction=1 / 3)
    assert len(third) == 1000 and len(set(third)) == 1000 and np.all(np.diff(third) > 0)
    assert np.all(np.abs(np.bincount(many.classes[third]) - 333) < 60)
    np.testing.assert_array_equal(third, rows(fraction=1 / 3))
    assert not np.array_equal(third, rows(fraction=1 / 3, fraction_seed=1))
    # With the same seed, a larger fraction contains the smaller one.
    assert set(rows(fraction=0.1)) <= set(rows(fraction=0.5))
    assert len(rows(fraction=1e-9)) == 1


def test_a_warning_is_logged_when_the_first_images_leave_classes_out(package_log):
    select_rows(data(first=2), annotate(4, ["a", "a", "b", "b"]), "here")
    assert "data.first=2 leaves out 1 classes" in package_log.text


def labels_of(annotations=ANIMALS, *, model=None, **options):
    config = config_of({"data": options, "model": model or {}})
    rows = select_rows(config.data, annotations, "here")
    return conditions(config, annotations.take(rows), "here")


def test_class_labels_are_numbered_among_the_selected_classes():
    labels, names = labels_of(model={"classes": 3})
    assert names == ("cat", "dog", "emu") and labels.tolist() == [0, 1, 2] * 4
    labels, names = labels_of(classes="emu,cat", model={"classes": 2})
    assert names == ("cat", "emu") and labels.tolist() == [0, 1] * 4
    for model, words in [
        ({"classes": 2}, r"model.classes=2, but the data has 3 \(cat, dog, emu\); set it to 3"),
        ({"attributes": 2}, r"model.attributes=2, but the data has 3 \(big, wild one, odd\)"),
    ]:
        with pytest.raises(UserError, match=words):
            labels_of(model=model)
    for model, words in [({"classes": 2}, "has no classes"), ({"attributes": 1}, "has no attributes")]:
        with pytest.raises(UserError, match=words):
            labels_of(annotate(5), model=model)


def test_attribute_labels_are_zeros_and_ones_in_the_configured_order():
    labels, names = labels_of(attributes="odd, big", model={"attributes": 2})
    assert names == ("odd", "big") and labels.tolist() == [[1, 0], [0, 1], [0, 0], [1, 1], [0, 0], [0, 1]] * 2
    assert labels_of(model={"attributes": 3})[1] == ("big", "wild one", "odd")
    with pytest.raises(UserError, match=r"data.attributes='odd,bigg': there is no 'bigg'; did you mean big\?"):
        labels_of(attributes="odd,bigg", model={"attributes": 2})
    with pytest.raises(UserError, match=r"data.attributes='odd,big' chooses 2, but model.attributes=3"):
        labels_of(attributes="odd,big", model={"attributes": 3})
    with pytest.raises(UserError, match=r"model.attributes=1, but the data has 2 \(odd, big\)"):
        labels_of(attributes="odd,big", model={"attributes": 1})


CITIES = annotate(4, ["Boston", "New York, NY"] * 2, {"big, old": [0, 1, 1, 0], "wet": [1, 1, 0, 0]})


def test_names_may_hold_commas():
    def rows(**options):
        return select_rows(data(**options), CITIES, "here").tolist()

    assert rows(classes="New York, NY") == rows(filter="New York, NY") == [1, 3]
    assert rows(classes="New York, NY, Boston") == [0, 1, 2, 3]
    labels, names = labels_of(CITIES, attributes="big, old", model={"attributes": 1})
    assert names == ("big, old",) and labels.ravel().tolist() == [0, 1, 1, 0]
    assert labels_of(CITIES, attributes="wet,big, old", model={"attributes": 2})[1] == ("wet", "big, old")
    with pytest.raises(UserError, match=r"there is no 'New York'; did you mean 'New York, NY'\?"):
        rows(classes="New York")
    with pytest.raises(UserError, match=r"the data has 2 \('Boston', 'New York, NY'\)"):
        labels_of(CITIES, model={"classes": 3})


def test_blanks_around_a_name_are_dropped_only_if_they_are_not_part_of_it():
    spaced = annotate(3, [" lead", "trail ", "plain x"])

    def rows(**options):
        return select_rows(data(**options), spaced, "here").tolist()

    assert spaced.class_names == (" lead", "plain x", "trail ")
    assert rows(classes=" lead") == rows(filter=" lead") == [0]
    assert rows(classes="plain x, lead") == [0, 2] and rows(classes="trail , plain x ") == [1, 2]
    for wrong, words in {"lead": "' lead'", "plain": "'plain x'"}.items():
        with pytest.raises(UserError, match=rf"there is no '{wrong}'; did you mean {words}\?"):
            rows(classes=wrong)
