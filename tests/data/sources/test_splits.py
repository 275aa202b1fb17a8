import pytest

from ddpm_jax.data.sources.splits import choose_split
from ddpm_jax.errors import UserError


@pytest.mark.parametrize(
    ("wanted", "splits", "chosen"),
    [
        (None, (), "all"),
        ("all", (), "all"),
        (None, ("test", "train"), "train"),
        (None, ("test", "validation"), "all"),
        ("all", ("test", "train"), "all"),
        ("val", ("train", "validation"), "validation"),
        ("Testing", ("test", "train"), "test"),
        ("unlabelled", ("train", "unlabelled"), "unlabelled"),
    ],
)
def test_the_chosen_split_is_the_wanted_one_or_the_training_split(wanted, splits, chosen):
    assert choose_split(wanted, splits, "here") == chosen


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ((), "data.split='tset': here has no splits"),
        (("test", "train"), r"data.split='tset' is not in here; did you mean test\?"),
    ],
)
def test_a_split_that_does_not_exist_is_refused(splits, words):
    with pytest.raises(UserError, match=words):
        choose_split("tset", splits, "here")
