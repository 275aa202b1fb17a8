import numpy as np
import pytest

from ddpm_jax.data.decode import decode_whole
from ddpm_jax.evaluation import features
from ddpm_jax.evaluation.features import open_extractor
from ddpm_jax.evaluation.neighbours import ImageSubset, features_of, in_colour, nearest_neighbours, share_closer
from ddpm_jax.reporting.images import save_png

PIXELS = open_extractor("pixels", None)


@pytest.fixture
def training(draw):
    """More images than a batch has, of which no two are equally far from a third."""
    return draw.integers(0, 256, (150, 6, 5, 3), dtype=np.uint8)


def find(images, training, k=3, extractor=PIXELS):
    return nearest_neighbours(extractor, features_of(extractor, images, ""), training, k, "")


def test_neighbours_equal_their_definition_across_batches(training, draw):
    images = draw.integers(0, 256, (9, 6, 5, 3), dtype=np.uint8)
    found = find(images, training, k=4)
    flat, others = (each.reshape(len(each), -1) / 255 for each in (images, training))
    distances = np.linalg.norm(flat[:, None] - others[None], axis=-1)
    np.testing.assert_array_equal(found.indices, np.argsort(distances, axis=1)[:, :4])
    np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :4], rtol=1e-6)


@pytest.mark.parametrize("name", ["pixels", "inception-64"])
def test_a_sample_that_is_a_training_image_is_found_at_distance_0(training, stem, monkeypatch, name):
    monkeypatch.setattr(features, "BATCH", 8)
    training, rows = training[:20], np.array([3, 19, 0])
    found = find(training[rows], training, extractor=open_extractor(name, stem if name != "pixels" else None))
    np.testing.assert_array_equal(found.indices[:, 0], rows)
    np.testing.assert_allclose(found.distances[:, 0], 0.0, atol=1e-5)
    assert (found.distances[:, 1] > 100 * found.distances[:, 0] + 1e-3).all()


def test_the_order_of_the_training_images_does_not_matter(training, draw):
    images, order = draw.integers(0, 256, (9, 6, 5, 3), dtype=np.uint8), draw.permutation(len(training))
    found, permuted = find(images, training), find(images, training[order])
    np.testing.assert_array_equal(order[permuted.indices], found.indices)
    np.testing.assert_allclose(permuted.distances, found.distances, rtol=1e-12)


def test_batches_do_not_matter(training, draw, monkeypatch):
    images = draw.integers(0, 256, (9, 6, 5, 3), dtype=np.uint8)
    found = find(images, training)
    for size in (1, 7, 150, 1000):
        monkeypatch.setattr(features, "BATCH", size)
        again = find(images, training)
        np.testing.assert_array_equal(again.indices, found.indices)
        np.testing.assert_allclose(again.distances, found.distances, rtol=1e-9)


def test_mirrored_images_follow_those_of_the_subset(training):
    subset = ImageSubset(training, np.array([5, 2]), mirrored=True)
    assert subset.shape == (4, 6, 5, 3) and len(subset) == 4
    assert subset.rows.tolist() == [5, 2, 5, 2] and subset.mirrored.tolist() == [False, False, True, True]
    np.testing.assert_array_equal(subset[np.array([3, 1])], [training[2][:, ::-1], training[2]])
    found = find(training[[2]][:, :, ::-1], subset)
    assert found.indices[0, 0] == 3 and found.distances[0, 0] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("channels", "depth"), [(1, 8), (2, 8), (3, 8), (4, 8), (1, 16)])
def test_images_in_colour_are_those_that_are_read_from_files(tmp_path, draw, channels, depth):
    image = draw.integers(0, 2**depth, (6, 5, channels), dtype=f"uint{depth}")
    if channels in (2, 4):
        image[:3, :, -1], image[0, :, -1] = 255, 0
    save_png(image, tmp_path / "image.png")
    expected = decode_whole((tmp_path / "image.png").read_bytes()).astype(int)
    assert np.abs(in_colour(image[None])[0] - expected).max() <= (1 if channels in (2, 4) else 0)


def test_the_share_of_closer_pairs_equals_its_definition(draw):
    samples, held_out = (draw.integers(0, 9, count).astype(float) for count in (40, 30))
    pairs = (samples[:, None] < held_out) + 0.5 * (samples[:, None] == held_out)
    assert share_closer(samples, held_out) == pytest.approx(pairs.mean(), rel=1e-12)
    assert share_closer(held_out, held_out) == pytest.approx(0.5, rel=1e-12)
    assert share_closer(np.zeros(3), held_out + 1.0) == 1.0 and share_closer(held_out + 10.0, held_out) == 0.0
