"""Images, labels and splits in .npy and .npz files under their usual names; pickles are never opened."""

import re

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data.open import open_dataset
from ddpm_jax.data.sources.arrays import open_arrays
from ddpm_jax.errors import UserError
from tests.data.pictures import config, data, noise, pixels_of


@pytest.fixture
def images(draw):
    return np.stack([noise(draw, 8, 8) for _ in range(12)])


LABELS = np.array([2, 0, 1] * 4)


def test_an_npy_file_takes_labels_from_the_file_beside_it(tmp_path, images):
    np.save(tmp_path / "set.npy", images)
    plain = open_arrays(data(path=str(tmp_path / "set.npy")))
    np.testing.assert_array_equal(pixels_of(plain), images)
    assert plain.annotations.class_names == ()
    np.save(tmp_path / "labels.npy", LABELS)
    labelled = open_arrays(data(path=str(tmp_path / "set.npy")))
    assert labelled.annotations.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(pixels_of(labelled), images[np.argsort(LABELS, kind="stable")])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("arr_0", "arr_1")])
def test_an_npz_file_holds_images_and_labels(tmp_path, images, save, names):
    save(tmp_path / "set.npz", **dict(zip(names, (images[..., 0], LABELS[:, None]), strict=True)))
    collection = open_arrays(data(path=str(tmp_path / "set.npz"), channels=1))
    order = np.argsort(LABELS, kind="stable")
    np.testing.assert_array_equal(pixels_of(collection, channels=1), images[order][..., :1])
    np.testing.assert_array_equal(collection.annotations.classes, LABELS[order])


@pytest.mark.parametrize("style", ["{split}_{kind}", "{kind}_{split}"])
def test_an_npz_file_may_hold_splits(tmp_path, images, style):
    parts = {"train": slice(0, 8), "test": slice(8, 12)}
    arrays = {style.format(split=split, kind="images"): images[part] for split, part in parts.items()}
    arrays |= {style.format(split=split, kind="labels"): LABELS[part] for split, part in parts.items()}
    np.savez(tmp_path / "set.npz", **arrays)

    def count(split):
        return len(open_arrays(data(path=str(tmp_path / "set.npz"), split=split)).names)

    assert (count(None), count("train"), count("test"), count("all")) == (8, 8, 4, 12)
    with pytest.raises(UserError, match=r"data.split='validation' is not in"):
        count("validation")


def test_numeric_classes_are_sorted_by_value(tmp_path, images):
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(12))
    assert open_arrays(data(path=str(tmp_path / "set.npz"))).annotations.class_names == tuple(map(str, range(12)))


class Trap:
    def __reduce__(self):
        return (print, ("the pickle was opened",))


def test_pickles_are_never_opened(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.array([Trap()], object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", images=np.array([Trap()], object))
    (tmp_path / "c.npy").write_bytes(b"\x80\x04no array")
    for name in ("a.npy", "b.npz", "c.npy"):
        with pytest.raises(UserError, match="cannot be read .* as plain numbers"):
            open_arrays(data(path=str(tmp_path / name)))
    assert "pickle was opened" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.zeros((2, 8, 8), np.int64)}, r"images is int64 \[2, 8, 8\]; expected uint8, uint16 or floats"),
        ({"images": np.zeros((2, 8, 8, 5), np.uint8)}, r"images is uint8 \[2, 8, 8, 5\]; expected .* 1, 2, 3 or 4\]"),
        ({"images": np.zeros((2, 8, 8), np.uint16)}, r"images is uint16 \[2, 8, 8\], of 16 bits; set data.depth=16"),
        ({"images": np.arange(8.0).reshape(2, 2, 2)}, r"with values from 0 to 7; set data.value_range to those of"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(3, int)}, r"for each of the 2 images"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(2)}, r"labels is float64 \[2\]"),
        ({"photos": np.zeros((2, 8, 8), np.uint8)}, r"contains the arrays photos; expected images"),
    ],
)
def test_other_arrays_than_images_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError, match=words):
        open_arrays(data(path=str(tmp_path / "set.npz")))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("depth", [8, 16])
def test_floats_are_mapped_from_the_stated_range_to_all_levels(tmp_path, depth, dtype):
    low, high, top = -0.1, 0.7, 2**depth - 1  # No float is exactly either; some types round them outwards.
    values = np.linspace(low, high, 64).reshape(1, 8, 8).astype(dtype)
    np.save(tmp_path / "set.npy", values)
    options = {"channels": 1, "depth": depth, "value_range": (low, high)}
    pixels = open_arrays(data(path=str(tmp_path / "set.npy"), **options)).read(0)
    expected = np.clip((values[0].astype(float) - low) / (high - low), 0, 1) * top
    assert pixels.dtype == f"uint{depth}" and pixels.max() == top
    np.testing.assert_allclose(pixels, expected, atol=0.51)


@pytest.mark.parametrize("wrong", [-0.2, 1.01, np.nan, np.inf])
@pytest.mark.parametrize("stream", [False, True])
def test_floats_outside_of_the_stated_range_are_refused_with_the_range_found(tmp_path, wrong, stream):
    values = np.full((300, 8, 8), 0.5, np.float32)
    values[7, 3, 3], values[8, 0, 0] = wrong, 0.25  # One of many, which would pass as unreadable.
    np.save(tmp_path / "set.npy", values)
    options = {"path": str(tmp_path / "set.npy"), "channels": 1, "value_range": (0.0, 1.0), "stream": stream}
    nans = " and 1 times NaN" if np.isnan(wrong) else ""
    found = re.escape(f"from {np.nanmin(values):g} to {np.nanmax(values):g}{nans}")
    with pytest.raises(UserError, match=rf"has values {found}, outside of data.value_range=\(0.0, 1.0\)"):
        open_dataset(config(**options)).images[np.arange(300)]


def test_uint16_arrays_of_either_byte_order_are_taken_as_they_are(tmp_path, draw):
    values = draw.integers(0, 2**16, (3, 8, 8, 1)).astype(np.uint16)
    for name, array in (("native.npy", values), ("big.npy", values.astype(">u2"))):
        np.save(tmp_path / name, array)
        dataset = open_dataset(config(path=str(tmp_path / name), channels=1, depth=16))
        np.testing.assert_array_equal(dataset.images, values)
    np.save(tmp_path / "colour.npy", values.repeat(3, axis=3))
    with pytest.raises(UserError, match=r"uint16 \[3, 8, 8, 3\]; expected .* \[N, height, width, 1\]"):
        open_dataset(config(path=str(tmp_path / "colour.npy"), channels=1, depth=16))


def test_a_range_for_other_images_than_floats_is_refused(tmp_path, images):
    np.save(tmp_path / "set.npy", images)
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    for name, words in (("set.npy", "is for floats; unset it"), ("", "got data.source='folder'; unset it")):
        with pytest.raises(UserError, match=words):
            open_dataset(config(path=str(tmp_path / name), value_range=(0.0, 1.0)))


def test_missing_and_truncated_files_are_refused(tmp_path, images):
    np.save(tmp_path / "set.npy", images)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "set.npy").read_bytes()[:500])
    with pytest.raises(UserError, match="cannot be read"):
        open_arrays(data(path=str(tmp_path / "cut.npy")))
    with pytest.raises(UserError, match="is not a file"):
        open_arrays(data(path=str(tmp_path / "no.npy")))
