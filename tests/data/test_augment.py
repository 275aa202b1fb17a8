"""The laws of the augmentation: the parameters tell the map, and zeros leave every bit as it is."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.data.augment import (
    PARAMETERS,
    SCALE_STD,
    SHIFT_STD,
    STRETCH_STD,
    augment,
    draw_parameters,
    source_map,
    transform,
)
from ddpm_jax.diffusion.randomness import Purpose
from ddpm_jax.runtime.devices import along_batch, data_mesh
from ddpm_jax.sampling.noise import image_keys

SHAPES = [(8, 8, 1), (6, 8, 3), (8, 6, 2)]
OBLONG = (12, 16, 1)
FLIP_X, FLIP_Y, SCALE, COS, SIN, ALONG, BETWEEN, SHIFT_X, SHIFT_Y = range(PARAMETERS)
transformed = jax.jit(transform)
augmented = jax.jit(augment, static_argnums=2)


def keys(count: int):
    return image_keys(0, np.arange(count), Purpose.AUGMENT)


def random_images(draw, shape, count: int = 16):
    return jnp.asarray(draw.uniform(-1.0, 1.0, (count, *shape)), jnp.float32)


def parameters(**values):
    """The parameters of one image: those given by their names, and zeros."""
    vector = np.zeros((1, PARAMETERS), np.float32)
    for name, value in values.items():
        vector[0, globals()[name]] = value
    return jnp.asarray(vector)


def rotation(angle: float):
    return parameters(COS=np.cos(angle) - 1.0, SIN=np.sin(angle))


def ramp(shape, slope_x: float, slope_y: float):
    """An image [1, height, width, 1] that is linear in the position from its centre, as bilinear interpolation is."""
    height, width, _ = shape
    y, x = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    return jnp.asarray((slope_x * x + slope_y * y)[None, :, :, None], jnp.float32)


def inner(images):
    """The pixels around the centre that no map of these tests takes from beyond the borders."""
    _, height, width, _ = images.shape
    return np.asarray(images)[:, height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2]


@pytest.mark.parametrize("shape", SHAPES)
def test_without_augmentation_every_bit_stays(draw, shape):
    images = random_images(draw, shape)
    same, none = augmented(images, keys(16), 0.0)
    np.testing.assert_array_equal(same, images)
    np.testing.assert_array_equal(none, 0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_images_without_parameters_are_untouched_and_the_others_stay_in_range(draw, shape):
    images = jnp.sign(random_images(draw, shape, 64))  # Extremes, from which rounding could leave the range.
    changed, parameters = augmented(images, keys(64), 0.12)
    touched = np.any(parameters != 0.0, axis=1)
    assert changed.shape == images.shape and changed.dtype == jnp.float32 and 0 < touched.sum() < 64
    np.testing.assert_array_equal(changed[~touched], images[~touched])
    assert np.abs(changed).max() <= 1.0
    assert (np.abs(changed - images).max(axis=(1, 2, 3)) > 0).sum() > 0.9 * touched.sum()


def test_flips_are_their_own_inverses(draw):
    images = random_images(draw, OBLONG)
    for vector, axis in ((parameters(FLIP_X=1.0), 2), (parameters(FLIP_Y=1.0), 1)):
        vectors = jnp.repeat(vector, len(images), axis=0)
        flipped = transformed(images, vectors)
        np.testing.assert_array_equal(flipped, jnp.flip(images, axis))
        np.testing.assert_array_equal(transformed(flipped, vectors), images)


@pytest.mark.parametrize(("x", "y"), [(3, 0), (0, -2), (-2, 1)])
def test_a_translation_moves_a_point_by_its_parameters(x, y):
    height, width, _ = OBLONG
    point = jnp.zeros((1, *OBLONG), jnp.float32).at[0, 5, 7, 0].set(1.0)
    vector = parameters(SHIFT_X=x / (SHIFT_STD * width), SHIFT_Y=y / (SHIFT_STD * height))
    np.testing.assert_allclose(transformed(point, vector), jnp.roll(point, (y, x), (1, 2)), atol=1e-5)


@pytest.mark.parametrize("angle", [0.3, -1.0, np.pi / 2, np.pi])
def test_a_rotation_turns_a_ramp_by_its_angle(angle):
    """In pixels, also where height and width differ; from x, to the right, towards y, down."""
    turned = transformed(ramp(OBLONG, 0.05, 0.02), rotation(angle))
    slope_x = 0.05 * np.cos(angle) - 0.02 * np.sin(angle)
    slope_y = 0.05 * np.sin(angle) + 0.02 * np.cos(angle)
    np.testing.assert_allclose(inner(turned), inner(ramp(OBLONG, slope_x, slope_y)), atol=1e-5)


def test_a_half_turn_is_both_flips(draw):
    images = random_images(draw, OBLONG, 1)
    np.testing.assert_allclose(transformed(images, rotation(np.pi)), images[:, ::-1, ::-1], atol=1e-4)


@pytest.mark.parametrize("channels", [2, 4])
def test_hidden_colours_do_not_mix_into_visible_ones(draw, channels):
    alpha = np.where(np.arange(12)[:, None] + np.arange(8) < 9, 1.0, -1.0)
    images = np.asarray(random_images(draw, (8, 12, channels), 1)).swapaxes(1, 2).copy()
    images[..., -1] = alpha
    images[..., :-1] = np.where(alpha[..., None] > 0.0, 0.5, images[..., :-1])
    turned = np.asarray(transformed(jnp.asarray(images), rotation(0.4)))
    visible = turned[..., -1] > -1.0
    assert 0 < visible.sum() < visible.size
    np.testing.assert_allclose(turned[visible][:, :-1], 0.5, atol=1e-4)


def test_scales_and_stretches_divide_the_slopes_of_a_ramp():
    image = ramp(OBLONG, 0.05, 0.02)
    half, narrow = 1.0 / SCALE_STD, 0.5 / STRETCH_STD
    np.testing.assert_allclose(inner(transformed(image, parameters(SCALE=half))), inner(image / 2), atol=1e-6)
    wide = inner(transformed(image, parameters(ALONG=2 * narrow)))
    np.testing.assert_allclose(wide, inner(ramp(OBLONG, 0.025, 0.04)), atol=1e-6)
    # A stretch along the diagonal leaves it fixed up to its factor.
    diagonal = transformed(ramp(OBLONG, 0.02, 0.02), parameters(BETWEEN=narrow))
    np.testing.assert_allclose(inner(diagonal), inner(ramp(OBLONG, 0.02, 0.02)) / np.sqrt(2), atol=1e-6)


def test_the_parameters_determine_the_map_and_the_map_the_parameters():
    """Area, angle, axis and translation of the composed map are those of its parameters."""
    drawn = np.array(draw_parameters(keys(50), 1.0), np.float64)
    maps = np.asarray(jax.vmap(lambda vector: source_map(vector, 12, 16))(jnp.asarray(drawn, jnp.float32)), np.float64)
    for vector, inverse in zip(drawn, maps, strict=True):
        forward = np.linalg.inv(inverse[:, :2])
        np.testing.assert_allclose(np.linalg.det(forward), 4.0 ** (SCALE_STD * vector[SCALE]), rtol=1e-4)
        shift = -forward @ inverse[:, 2] / (SHIFT_STD * np.array([16, 12]))
        np.testing.assert_allclose(shift, vector[SHIFT_X:], atol=1e-4)
        stretch, turn = polar(forward / np.sqrt(np.linalg.det(forward)))
        np.testing.assert_allclose(turn[:, 0] - [1, 0], vector[COS : SIN + 1], atol=1e-4)
        levels, axes = np.linalg.eigh(stretch)
        doubled = 2 * np.arctan2(*axes[::-1, 1])
        along_and_between = np.log2(levels[1]) / STRETCH_STD * np.array([np.cos(doubled), np.sin(doubled)])
        np.testing.assert_allclose(along_and_between, vector[ALONG : BETWEEN + 1], atol=2e-3)


def polar(matrix):
    """The symmetric and the orthogonal factor of a matrix, in this order."""
    left, sizes, right = np.linalg.svd(matrix)
    return left @ np.diag(sizes) @ left.T, left @ right


@pytest.mark.parametrize("p", [0.12, 0.6])
def test_each_map_is_as_frequent_as_its_probability(p):
    drawn = np.asarray(draw_parameters(keys(4000), p))
    expected = np.array([0.5, p / 2, p, p, p, p, p, p, p])
    # Half of the stretches are along x, whose BETWEEN is 0.
    expected[BETWEEN] /= 2
    deviations = 4 * np.sqrt(expected * (1 - expected) / len(drawn))
    np.testing.assert_array_less(np.abs((drawn != 0.0).mean(axis=0) - expected), deviations + 1e-9)
    together = drawn[:, COS] != 0.0
    np.testing.assert_array_equal(together, drawn[:, SIN] != 0.0)
    normal = drawn[:, (SCALE, SHIFT_X, SHIFT_Y)]
    np.testing.assert_allclose([x[x != 0.0].std() for x in normal.T], 1.0, atol=0.15)


def test_compiled_and_eager_maps_agree_and_an_image_does_not_depend_on_its_batch(draw):
    images = random_images(draw, OBLONG)
    compiled, parameters = augmented(images, keys(16), 0.5)
    eager, eager_parameters = augment(images[9:12], keys(16)[9:12], 0.5)
    np.testing.assert_allclose(eager_parameters, parameters[9:12], atol=1e-6)
    np.testing.assert_allclose(eager, compiled[9:12], atol=1e-5)


def save_augmented(target: str) -> None:
    """Saves augmented images, divided among the devices of this process, and the program that made them."""
    images = random_images(np.random.default_rng(0), (6, 8, 3))
    divided = jax.device_put((images, keys(16)), along_batch(data_mesh()))
    program = augmented.lower(*divided, 0.5).compile()
    changed, parameters = program(*divided)
    np.savez(target, images=changed, parameters=parameters, devices=data_mesh().size, text=program.as_text())


def test_any_number_of_devices_draws_the_same_maps_and_none_sends_its_images(tmp_path):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    call = f"from {__name__} import save_augmented; save_augmented({str(tmp_path / '4.npz')!r})"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", call], cwd=root, env={**os.environ, "XLA_FLAGS": flags}, check=True)
    save_augmented(str(tmp_path / "1.npz"))
    one, four = (np.load(tmp_path / f"{devices}.npz") for devices in (1, 4))
    assert (one["devices"], four["devices"]) == (1, 4)
    np.testing.assert_allclose(four["parameters"], one["parameters"], atol=1e-6)
    np.testing.assert_allclose(four["images"], one["images"], atol=1e-5)
    sent = ("all-gather", "all-to-all", "all-reduce", "collective-permute")
    assert not [kind for kind in sent if kind in str(four["text"])]
