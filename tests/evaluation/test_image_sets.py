import numpy as np
import pytest
from PIL import Image

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.image_sets import open_set
from ddpm_jax.evaluation.statistics import Statistics


@pytest.fixture
def images(draw):
    return draw.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


@pytest.fixture
def folder(images, tmp_path):
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "folder" / f"{i:02d}.png")
    return tmp_path / "folder"


def test_a_folder_is_indexed_like_the_array_of_its_images(folder, images):
    opened = open_set(folder, "pixels", None)
    assert len(opened) == 6 and opened.shape == images.shape
    np.testing.assert_array_equal(opened[np.array([4, 1])], images[[4, 1]])


def test_arrays_and_folders_of_samples_are_opened_and_files_with_moments_are_statistics(tmp_path, images):
    np.savez(tmp_path / "samples.npz", images)
    for path in (tmp_path / "samples.npz", tmp_path):
        np.testing.assert_array_equal(open_set(path, "pixels", None)[np.arange(6)], images)
    np.savez(tmp_path / "moments.npz", mu=np.zeros(3), sigma=np.eye(3))
    assert isinstance(open_set(tmp_path / "moments.npz", "pixels", None), Statistics)


def test_arrays_of_16_bits_and_with_alpha_are_opened_as_colours_of_8(tmp_path, images):
    np.savez(tmp_path / "deep.npz", images[..., :1].astype(np.uint16) * 257)
    alpha = np.full_like(images[..., :1], 255)
    np.savez(tmp_path / "alpha.npz", np.concatenate([images, alpha], axis=-1))
    expected = {"deep.npz": images[..., :1].repeat(3, axis=-1), "alpha.npz": images}
    for name, pixels in expected.items():
        np.testing.assert_array_equal(open_set(tmp_path / name, "pixels", None)[np.arange(6)], pixels)


def test_images_of_another_size_and_damaged_ones_are_refused_by_name(folder, images):
    Image.fromarray(images[0, :3]).save(folder / "98.png")
    (folder / "99.png").write_bytes((folder / "00.png").read_bytes()[:60])
    opened = open_set(folder, "pixels", None)
    with pytest.raises(UserError, match="98.png is 5x3, the first image is 5x4; expected one size"):
        opened[np.array([0, 6])]
    with pytest.raises(UserError, match="99.png cannot be read .*; repair or remove it"):
        opened[np.array([7])]


def test_missing_sets_and_damaged_caches_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist; give a folder"):
        open_set(tmp_path / "nothing", "pixels", None)
    (tmp_path / "images.u8").write_bytes(b"no cache")
    with pytest.raises(UserError, match="is not an intact folder of the cache; prepare it again"):
        open_set(tmp_path, "pixels", None)
