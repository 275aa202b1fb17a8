"""The laws of the conditions: resizing and grey are Pillow's and linear; a mask depends on its key alone."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddpm_jax.diffusion.degradations import KERNELS, draw_masks, enlarge, grey, near_segment, shrink
from ddpm_jax.diffusion.pixels import from_pixels, to_pixels
from ddpm_jax.runtime.devices import along_batch, data_mesh

FILTERS = {"box": Image.Resampling.BOX, "bilinear": Image.Resampling.BILINEAR}
FILTERS |= {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
SIZES = [(4, 4), (5, 32), (32, 24)]
masks_of = jax.jit(draw_masks, static_argnums=(1, 2))
covered_by = jax.jit(near_segment, static_argnums=(3, 4))


def random_images(draw, *shape):
    return draw.uniform(-1.0, 1.0, shape).astype(np.float32)


def keys(count: int):
    return jax.random.split(jax.random.key(0), count)


def by_pillow(images, height: int, width: int, filter: str):
    """Each channel resized as an image of mode F, whose values are not rounded."""
    planes = np.moveaxis(images, -1, 1).reshape(-1, *images.shape[1:3])
    resized = [Image.fromarray(plane).resize((width, height), FILTERS[filter]) for plane in planes]
    return np.moveaxis(np.stack(resized).reshape(len(images), -1, height, width), 1, -1)


@pytest.mark.parametrize("filter", KERNELS)
@pytest.mark.parametrize(("height", "width", "factor"), [(24, 16, 2), (21, 30, 3), (64, 32, 8), (8, 8, 8), (6, 6, 1)])
def test_shrink_is_pillows_resize(draw, filter, height, width, factor):
    images = random_images(draw, 2, height, width, 3)
    small = shrink(images, factor, filter)
    assert small.dtype == jnp.float32
    np.testing.assert_allclose(small, by_pillow(images, height // factor, width // factor, filter), atol=2e-6)


@pytest.mark.parametrize("filter", KERNELS)
def test_images_of_8_bits_are_shrunk_to_the_pixels_of_pillow(draw, filter):
    """But for half levels, which Pillow rounds by weights of 22 bits; without rounding between its two passes, up to 17
    levels and 44% of the pixels would differ."""
    pixels = draw.choice(np.array([0, 90, 255], np.uint8), (4, 24, 36, 3))  # With edges, at which Pillow clips.
    small = to_pixels(shrink(from_pixels(pixels), 3, filter, 8)).astype(int)
    resized = np.stack([Image.fromarray(image).resize((12, 8), FILTERS[filter]) for image in pixels]).astype(int)
    assert np.abs(small - resized).max() <= 1 and np.mean(small != resized) < 0.05


@pytest.mark.parametrize(("height", "width"), [(24, 16), (19, 50), (6, 4), (6, 5)])
def test_enlarge_is_pillows_bicubic(draw, height, width):
    images = random_images(draw, 2, 6, 4, 3)
    large = enlarge(images, height, width)
    assert large.dtype == jnp.float32
    np.testing.assert_allclose(large, by_pillow(images, height, width, "bicubic"), atol=2e-6)


def test_grey_is_pillows_luma(draw):
    pixels = draw.integers(0, 256, (1, 16, 16, 3), np.uint8)
    levels = (np.asarray(grey(pixels.astype(np.float32) / 127.5 - 1.0)) + 1.0) * 127.5
    assert np.abs(levels[0, ..., 0] - np.asarray(Image.fromarray(pixels[0]).convert("L"))).max() < 0.51


@pytest.mark.parametrize("filter", KERNELS)
def test_constants_stay_constant(filter):
    images = np.full((1, 12, 24, 3), 0.3, np.float32)
    for changed in (shrink(images, 4, filter), enlarge(images, 17, 31), grey(images)):
        np.testing.assert_allclose(changed, 0.3, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_box_undoes_a_repetition(draw, factor):
    images = random_images(draw, 2, 5, 7, 3)
    repeated = images.repeat(factor, axis=1).repeat(factor, axis=2)
    np.testing.assert_allclose(shrink(repeated, factor, "box"), images, atol=1e-6)


@pytest.mark.parametrize(
    "degrade",
    [lambda x: shrink(x, 3, "lanczos"), lambda x: enlarge(x, 20, 13), grey],
    ids=["shrink", "enlarge", "grey"],
)
def test_degradations_are_linear_and_the_same_for_each_image_and_when_compiled(draw, degrade):
    x, y = random_images(draw, 2, 3, 18, 12, 3)
    np.testing.assert_allclose(degrade(0.7 * x - 0.2 * y), 0.7 * degrade(x) - 0.2 * degrade(y), atol=1e-6)
    np.testing.assert_array_equal(degrade(x)[1:2], degrade(x[1:2]))
    np.testing.assert_allclose(jax.vmap(degrade)(np.stack([x, y]))[1], degrade(y), atol=1e-6)
    np.testing.assert_allclose(jax.jit(degrade)(x), degrade(x), atol=1e-6)


def test_what_cannot_be_degraded_is_refused():
    images = np.zeros((1, 12, 10, 4), np.float32)
    with pytest.raises(ValueError, match="12x10; expected multiples of the factor, 4"):
        shrink(images, 4, "box")
    with pytest.raises(ValueError, match="4 channels; expected 3"):
        grey(images)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_masks_paint_a_part_of_the_image_and_half_of_them_are_boxes(height, width):
    masks = np.asarray(masks_of(keys(400), height, width))
    assert masks.shape == (400, height, width, 1) and masks.dtype == np.float32
    assert set(np.unique(masks)) == {0.0, 1.0}
    share = masks.mean(axis=(1, 2, 3))
    assert share.min() > 0.0 and share.max() < 1.0 and 0.1 < share.mean() < 0.5
    rows, columns = masks.max(axis=2, keepdims=True), masks.max(axis=1, keepdims=True)
    is_box = (masks == rows * columns).all(axis=(1, 2, 3))
    assert share[~is_box].max() <= 0.5
    # On few pixels some strokes look like boxes.
    assert 0.4 < is_box.mean() < (0.6 if height > 20 else 0.9)


def test_a_mask_depends_on_its_key_alone_also_when_compiled():
    masks = masks_of(keys(8), 12, 16)
    np.testing.assert_array_equal(draw_masks(keys(8)[2:5], 12, 16), masks[2:5])
    assert len(np.unique(np.asarray(masks).reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize(("a", "b"), [((3, 4), (9, 15)), ((9, 2), (1, 2)), ((5, 5), (5, 5)), ((11, 0), (0, 15))])
@pytest.mark.parametrize("thickness", [1, 4])
def test_a_segment_covers_the_pixels_within_half_its_thickness(a, b, thickness):
    """The distance to the nearest of many points of the segment, in float64."""
    points = np.linspace(a, b, 4001)
    pixels = np.stack(np.mgrid[:12, :16], axis=-1)
    distance = np.linalg.norm(pixels[:, :, None] - points, axis=-1).min(axis=-1)
    covered = covered_by(*(jnp.asarray(value, jnp.int32) for value in (a, b, thickness)), 12, 16)
    np.testing.assert_array_equal(covered, distance <= thickness / 2 + 1e-5)


def save_conditions(target: str) -> None:
    """Saves conditions of images that are divided among the devices of this process."""

    def conditions(images, keys):
        return enlarge(shrink(images, 4, "lanczos"), 16, 24), grey(images), draw_masks(keys, 16, 24)

    images = random_images(np.random.default_rng(0), 16, 16, 24, 3)
    divided = jax.device_put((images, keys(16)), along_batch(data_mesh()))
    low, greys, masks = jax.jit(conditions)(*divided)
    np.savez(target, low=low, greys=greys, masks=masks, devices=data_mesh().size)


def test_any_number_of_devices_makes_the_same_conditions(tmp_path):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    call = f"from {__name__} import save_conditions; save_conditions({str(tmp_path / '4.npz')!r})"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", call], cwd=root, env={**os.environ, "XLA_FLAGS": flags}, check=True)
    save_conditions(str(tmp_path / "1.npz"))
    one, four = (np.load(tmp_path / f"{devices}.npz") for devices in (1, 4))
    assert (one["devices"], four["devices"]) == (1, 4)
    for name in ("low", "greys", "masks"):
        np.testing.assert_array_equal(one[name], four[name])
