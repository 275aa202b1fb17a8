import numpy as np
import pytest

from ddpm_jax.data.dataset import MAX_HELD_OUT, Dataset, held_out, hold_out, traits
from ddpm_jax.errors import UserError
from tests.data.test_batches import numbered


def test_held_out_images_are_a_fixed_share_and_never_trained_on():
    train, held = hold_out(numbered(200), 0.1)
    assert len(held) == 20 and sorted([*train, *held]) == list(range(200))
    np.testing.assert_array_equal(held, hold_out(numbered(200), 0.1)[1])
    assert len(hold_out(numbered(200), 0.0)[1]) == 0
    with pytest.raises(UserError, match="leaves none of the 1 images"):
        hold_out(numbered(1), 0.9)


def test_no_more_images_are_held_out_than_the_maximum():
    assert held_out(1000, 0.1) == 100 and held_out(10**6, 0.1) == MAX_HELD_OUT


def test_traits_depend_on_count_pixels_labels_and_names():
    dataset = numbered(9)
    others = [
        Dataset(dataset.images[:-1], dataset.labels[:-1], dataset.names),
        dataset._replace(images=dataset.images + np.uint8(1)),
        dataset._replace(labels=dataset.labels[::-1]),
        dataset._replace(names=("b",)),
    ]
    assert traits(dataset) == traits(numbered(9)) and traits(dataset) not in map(traits, others)
