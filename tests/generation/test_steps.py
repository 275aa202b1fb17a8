"""Samplers that are iterated step by step: the images of `sample`, concurrent iterations, stopping early."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import UserError, load_run
from ddpm_jax.diffusion.pixels import to_pixels
from ddpm_jax.generation.steps import StepSampler
from ddpm_jax.runtime.devices import data_mesh

pytestmark = pytest.mark.xdist_group("steps")  # They share compiled steps.


@pytest.fixture(scope="module")
def digits():
    return load_run("pretrained:digits")


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 8},
        {"sampler": "ddim", "steps": 4, "eta": 1},
        {"sampler": "dpm_solver", "steps": 5, "order": 3},
        {"sampler": "unipc", "steps": 4, "spacing": "linspace_open"},
        {"sampler": "heun", "steps": 5},
    ],
)
def test_iterated_steps_end_with_the_images_of_sample(digits, options):
    *steps, last = digits.iter_steps(3, seed=2, label=3, guidance=2, **options)
    assert [step.done for step in steps] == list(range(options["steps"])) == list(range(last.done))
    assert [step.t for step in steps] == sorted({step.t for step in steps}, reverse=True)
    assert {step.steps for step in steps} == {last.steps} == {last.done} and last.t == 0
    np.testing.assert_array_equal(steps[0].x_t, to_pixels(digits.noise(3, seed=2)))
    expected = digits.sample(3, seed=2, label=3, guidance=2, **options)
    assert np.abs(last.x_t.astype(int) - expected).max() <= 1
    assert np.ptp(last.x_t) > 100
    np.testing.assert_array_equal(last.x_t, last.x0)


def test_leaving_the_loop_stops_sampling(digits, monkeypatch):
    done, compiled = [], StepSampler._compile

    def counting(self, *arguments):
        step = compiled(self, *arguments)
        return lambda *given: done.append(1) or step(*given)

    monkeypatch.setattr(StepSampler, "_compile", counting)
    for step in digits.iter_steps(2, seed=1, steps=200):
        if step.done == 3:
            break
    assert len(done) == 4
    assert len(list(digits.iter_steps(2, seed=1, steps=200))) == 201 and len(done) == 204


def test_concurrent_iterations_of_a_sampler_are_independent(digits):
    separate = [[step.x_t for step in digits.iter_steps(2, seed=seed, steps=20)] for seed in (1, 2)]
    together = zip(digits.iter_steps(2, seed=1, steps=20), digits.iter_steps(2, seed=2, steps=20), strict=True)
    for steps, expected in zip(together, zip(*separate, strict=True), strict=True):
        np.testing.assert_array_equal([step.x_t for step in steps], expected)
    assert (separate[0][-1] != separate[1][-1]).any()


def test_seconds_exclude_compilation(digits, monkeypatch):
    times = iter([100.0, *range(101, 200)])
    monkeypatch.setattr("ddpm_jax.generation.steps.time.monotonic", lambda: next(times))
    assert [step.seconds for step in digits.iter_steps(1, steps=3)] == [1, 2, 3, 4]


def test_a_count_that_is_not_a_multiple_of_the_devices_is_padded(digits):
    """A mesh that claims four devices on one, so that only the padding differs."""

    class Mesh:
        size = 4

    settings = dataclasses.replace(digits.config.sample, count=3, steps=2)
    sampler = StepSampler(dataclasses.replace(digits.config, sample=settings), data_mesh())
    sampler._mesh = Mesh()
    labels = np.zeros(3, np.int32)
    *_, last = sampler.iterate(digits.params, 0, labels)
    assert last.x_t.shape == (3, 8, 8, 1)


def test_inpainting_changes_only_pixels_under_the_mask(digits):
    images = digits.sample(2, seed=7)
    mask = np.arange(64).reshape(8, 8) % 3 == 0
    *steps, last = digits.inpaint(images, mask, count=5, steps=8, resamples=2, jump=4, label=3)
    assert len(steps) == last.steps == 16
    np.testing.assert_array_equal(last.x_t[:, ~mask], images[[0, 1, 0, 1, 0]][:, ~mask])
    assert (last.x_t[:, mask] != images[[0, 1, 0, 1, 0]][:, mask]).any()
    *_, other = digits.inpaint(images, mask, count=5, steps=8, resamples=2, jump=4, label=3, seed=9)
    assert (other.x_t[:, mask] != last.x_t[:, mask]).any()


def test_mistakes_in_inpainting_are_reported(digits):
    images, mask = digits.sample(2), np.eye(8)
    with pytest.raises(UserError, match=r"images are uint8 \[2, 8, 8\]; expected uint8 \[N, 8, 8, 1\]"):
        digits.inpaint(images[..., 0], mask)
    for bad in (np.eye(4), np.eye(8)[..., None]):
        with pytest.raises(UserError, match=r"mask is float64 .*; expected numbers or booleans \[8, 8\]"):
            digits.inpaint(images, bad)
    for bad, nonzero in ((np.ones((8, 8)), 64), (np.zeros((8, 8), bool), 0)):
        with pytest.raises(UserError, match=f"mask is nonzero at {nonzero} of 64 pixels; expected nonzero where"):
            digits.inpaint(images, bad)
    with pytest.raises(UserError, match="sample.task='inpaint' needs sample.sampler='ddpm', got 'ddim'"):
        digits.inpaint(images, mask, sampler="ddim")
    with pytest.raises(UserError, match="There is no option batch_size"):
        digits.iter_steps(2, batch_size=4)


def test_parameters_of_another_type_are_another_program(digits):
    *_, expected = digits.iter_steps(1, steps=2)
    half = dataclasses.replace(digits, params=jax.tree.map(lambda leaf: leaf.astype(jnp.float16), digits.params))
    *_, last = half.iter_steps(1, steps=2)
    assert np.abs(last.x_t.astype(int) - expected.x_t).mean() < 20
