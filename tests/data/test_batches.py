import time

import numpy as np
import pytest

from ddpm_jax.data.batches import Batches, prefetch, random_batch
from ddpm_jax.data.dataset import Dataset
from tests.data.pictures import config


def numbered(count: int, width: int = 3) -> Dataset:
    """Images whose pixels count up from their number, so that each image and its mirror image are distinguishable."""
    images = (np.arange(count)[:, None] + np.arange(width)[None]).astype(np.uint8).reshape(count, 1, width, 1)
    return Dataset(images, np.arange(count, dtype=np.int32), ("a",))


def batches(count=23, batch_size=8, **options) -> Batches:
    return Batches(numbered(count), np.arange(count), batch_size, **{"seed": 0, **options})


def test_each_image_comes_once_per_epoch_and_epochs_differ():
    order = np.concatenate([batches().order(step) for step in range(23)])
    epochs = order.reshape(8, 23)
    for epoch in epochs:
        assert sorted(epoch) == list(range(23))
    assert len({tuple(epoch) for epoch in epochs}) == 8


def test_a_batch_larger_than_the_set_spans_several_epochs():
    assert np.bincount(batches(count=5, batch_size=20).order(3)).tolist() == [4] * 5
    assert batches(count=1).order(2).tolist() == [0] * 8


def test_a_batch_is_a_function_of_seed_and_step():
    np.testing.assert_array_equal(batches(flip=True)(7).images, batches(flip=True)(7).images)
    assert not np.array_equal(batches()(7).labels, batches()(8).labels)
    assert not np.array_equal(batches()(7).labels, batches(seed=1)(7).labels)


def test_labels_stay_with_their_images_and_flips_mirror_half():
    mirrored = 0
    for step in range(50):
        batch = batches(flip=True)(step)
        rows = batch.images.reshape(8, 3)
        for row, label in zip(rows, batch.labels.ravel(), strict=True):
            straight = [label, label + 1, label + 2]
            assert row.tolist() in (straight, straight[::-1])
            mirrored += row.tolist() == straight[::-1]
    assert 0.4 < mirrored / 400 < 0.6
    assert all(row[0] < row[2] for row in batches()(0).images.reshape(8, 3))


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_processes_share_each_batch_without_overlap(processes, microbatches):
    shares = [
        batches(flip=True, microbatches=microbatches, process=p, processes=processes)(5).labels.reshape(
            microbatches, -1
        )
        for p in range(processes)
    ]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1).ravel(), batches().order(5))


def test_prefetch_keeps_the_order_and_propagates_errors():
    def load(step: int) -> int:
        time.sleep(0.01 * (step % 3))
        if step == 9:
            raise OSError("disk gone")
        return step * step

    assert list(prefetch(load, range(2, 8))) == [4, 9, 16, 25, 36, 49]
    assert list(prefetch(load, range(3, 3))) == []
    with pytest.raises(OSError, match="disk gone"):
        list(prefetch(load, range(8, 12)))


@pytest.mark.parametrize("model", [{}, {"classes": 3}, {"attributes": 2}])
def test_random_batches_have_the_shape_of_real_ones(model):
    batch = random_batch(config(model), 8, microbatches=2)
    assert batch.images.shape == (2, 4, 8, 8, 3) and batch.images.dtype == np.uint8
    assert batch.labels.shape == ((2, 4, 2) if "attributes" in model else (2, 4))
