import dataclasses

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features import open_extractor
from ddpm_jax.evaluation.statistics import compare, load_statistics, measure, save_statistics


def test_statistics_are_read_as_saved_and_files_of_pytorch_fid_are_read(tmp_path, draw):
    extractor = open_extractor("pixels", None)
    images = draw.integers(0, 256, (60, 3, 3, 1), dtype=np.uint8)
    statistics = measure(extractor, images, "", limit=20)
    save_statistics(tmp_path / "own.npz", statistics)
    again = load_statistics(tmp_path / "own.npz", "pixels")
    np.testing.assert_array_equal(again.moments.covariance, statistics.moments.covariance)
    np.testing.assert_array_equal(again.subset, statistics.subset)
    assert len(statistics.subset) == 20 and again.moments.images == 60
    np.savez(tmp_path / "theirs.npz", mu=statistics.moments.mean, sigma=statistics.moments.covariance)
    metrics = compare(load_statistics(tmp_path / "theirs.npz", "pixels"), statistics)
    assert metrics["fid"] == pytest.approx(0.0, abs=1e-9) and metrics["precision"] is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": np.zeros(3)}, "expected mu and sigma, as pytorch-fid writes"),
        ({"mu": np.zeros(3), "sigma": np.eye(2)}, "are not a mean and its covariance"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "are not a mean and its covariance"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "mu is not numeric, not finite"),
        ({"mu": np.array(["a", "b"]), "sigma": np.eye(2)}, "mu is not numeric"),
        ({"mu": np.full(3, 1e200), "sigma": np.eye(3)}, "mu is .* beyond 1e"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 5.0], [5.0, 1.0]])}, "without negative variances"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "count": np.array(-5)}, "count=-5 is not a number of images"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "count": np.array("abc")}, "count=abc is not a number of images"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "score": np.array([np.nan, 1.0])}, "score is not"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "features": np.zeros((5, 3))}, "differ in dimensions"),
        ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "without negative variances"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [0.0, 1.0]])}, "must be symmetric"),
    ],
)
def test_invalid_statistics_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=words):
        load_statistics(tmp_path / "a.npz", "pixels")


def test_damaged_files_of_statistics_and_comparisons_across_weights_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3))
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    np.save(tmp_path / "c.npy", np.zeros(3))
    (tmp_path / "c.npy").rename(tmp_path / "c.npz")
    for name in "bc":
        with pytest.raises(UserError, match="holds no statistics"):
            load_statistics(tmp_path / f"{name}.npz", "pixels")
    own = load_statistics(tmp_path / "a.npz", "inception-64")
    assert own.moments.images is None
    one, other = (dataclasses.replace(own, weights=weights) for weights in ("1", "2"))
    with pytest.raises(UserError, match="come from different weights"):
        compare(one, other)


def test_fewer_than_two_images_are_refused():
    with pytest.raises(UserError, match=r"Real images: 1 image\(s\) have no covariance"):
        measure(open_extractor("pixels", None), np.zeros((1, 3, 3, 1), np.uint8), "Real images", limit=9)
