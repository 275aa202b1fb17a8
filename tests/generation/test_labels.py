import numpy as np
import pytest

from ddpm_jax.config import config_of
from ddpm_jax.errors import UserError
from ddpm_jax.generation.labels import choose_labels

NAMES = ("a", "b", "c")


def chosen(kind, label):
    return choose_labels(config_of({"model": {kind: 3}, "sample": {"label": label}}), NAMES, np.arange(4))


def test_without_a_label_classes_take_turns_and_attributes_have_none():
    np.testing.assert_array_equal(chosen("classes", None), [0, 1, 2, 0])
    assert chosen("attributes", None) is None
    assert choose_labels(config_of({}), (), np.arange(4)) is None
    given = config_of({"model": {"classes": 3, "condition": "grey"}})
    assert choose_labels(given, NAMES, np.arange(4)) is None  # The class of a condition is unknown.


def test_a_model_that_never_saw_unlabelled_images_generates_those_without_attributes():
    config = config_of({"model": {"attributes": 3}, "train": {"label_dropout": 0.0}})
    np.testing.assert_array_equal(choose_labels(config, NAMES, np.arange(2)), np.zeros((2, 3)))


def test_a_label_holds_for_every_image():
    np.testing.assert_array_equal(chosen("classes", "b"), [1, 1, 1, 1])
    np.testing.assert_array_equal(chosen("attributes", "c, a"), np.tile([1, 0, 1], (4, 1)))
    with pytest.raises(UserError, match="names 2 classes; expected one"):
        chosen("classes", "a,b")
    with pytest.raises(UserError, match="sample.label='d' is not a label of this run"):
        chosen("attributes", "d")


def test_a_label_may_hold_commas():
    names = ("Boston", "New York, NY", "wet")
    for kind, label, expected in (("classes", names[1], 1), ("attributes", "wet,New York, NY", [0, 1, 1])):
        config = config_of({"model": {kind: 3}, "sample": {"label": label}})
        assert choose_labels(config, names, np.arange(1)).tolist() == [expected]
