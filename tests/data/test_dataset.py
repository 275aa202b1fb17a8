import numpy as np
import pytest

from ddpm_jax.data.dataset import MAX_HELD_OUT, Dataset, difference, held_out, hold_out, identity, traits
from ddpm_jax.data.fingerprints import PIXELS, fingerprints_of
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


@pytest.mark.parametrize("seed", range(3))
def test_any_change_of_what_training_reads_changes_the_identity_and_is_named(seed):
    draw = np.random.default_rng(seed)
    images, labels = draw.integers(0, 256, (400, 2, 2, 1), np.uint8), np.arange(400, dtype=np.int32) // 200
    before = Dataset(images, labels, ("a", "b"))
    replaced, turned, some = images.copy(), labels.copy(), draw.permutation(400)[:5]
    replaced[some[0]] ^= 1
    turned[some] = 1 - turned[some]
    swapped = np.arange(400)
    swapped[[3, 4]] = 4, 3
    changes = {
        None: Dataset(images.copy(), labels.copy(), ("a", "b")),
        "other images": before._replace(images=replaced),
        "other labels": before._replace(labels=turned),
        "the same images with other labels or in another order": before._replace(images=images[swapped]),
        "other labels and other images": Dataset(replaced, turned, ("a", "b")),
        "400 images, now 399": Dataset(images[1:], labels[1:], ("a", "b")),
        "labels named a, b, now nothing": before._replace(names=()),
    }
    for words, changed in changes.items():
        assert difference(identity(before), identity(changed)) == words


def test_new_labels_are_not_called_an_order_although_they_reorder_a_source_that_is_sorted_by_class():
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (400, 2, 2, 1), np.uint8), np.arange(400, dtype=np.int32) // 200
    before, relabelled = identity(Dataset(images, labels, ("a", "b"))), labels.copy()
    relabelled[7] = 1
    for turned in (1 - labels, relabelled):
        order = np.argsort(turned, kind="stable")
        now = identity(Dataset(images[order], turned[order], ("a", "b")))
        assert difference(before, now) == "the same images with other labels or in another order"


def test_attributes_belong_to_the_identity():
    images, attributes = np.zeros((400, 2, 2, 1), np.uint8), np.zeros((400, 3), np.uint8)
    before, attributes = identity(Dataset(images, attributes, ("a", "b", "c"))), attributes.copy()
    attributes[5, 1] = 1
    assert difference(before, identity(Dataset(images, attributes, ("a", "b", "c")))) == "other labels"


def test_fingerprints_of_older_caches_still_tell_other_images():
    images = np.random.default_rng(0).integers(0, 256, (400, 2, 2, 1), np.uint8)
    found = []
    for pixels in (images, images, images ^ np.uint8(1)):
        known = fingerprints_of(PIXELS, pixels)
        found.append(identity(Dataset(pixels, np.zeros(400, np.int32), (), known)))
    older = found[0]._replace(fingerprints=found[0].fingerprints._replace(unordered=None))
    for before, now in ((older, found[1]), (found[1], older), (older, older)):
        assert difference(before, now) is None
    assert difference(older, found[2]) == "other images, other labels or another order"
