"""Samplers that are watched: the same images, step by step, by several at once, until nobody looks."""

import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from ddpm_jax import UserError, load_run
from ddpm_jax.builders import build_schedule
from ddpm_jax.config import Config
from ddpm_jax.diffusion.denoiser import Prediction
from ddpm_jax.diffusion.pixels import to_pixels
from ddpm_jax.generation.live import LiveSampler, watched
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.noise import image_keys
from ddpm_jax.sampling.timesteps import step_pairs
from tests.end_to_end.commands import ROOT

pytestmark = pytest.mark.xdist_group("live")  # They share what is compiled.


@pytest.fixture(scope="module")
def digits():
    return load_run("pretrained:digits")


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 8},
        {"sampler": "ddim", "steps": 4, "eta": 1},
        {"sampler": "unipc", "steps": 4, "spacing": "linspace_open"},
    ],
)
def test_who_watches_sees_each_step_of_what_sample_draws(digits, options):
    *moments, last = digits.watch(3, seed=2, label=3, guidance=2, **options)
    assert [moment.done for moment in moments] == list(range(options["steps"])) == list(range(last.done))
    assert [moment.t for moment in moments] == sorted({moment.t for moment in moments}, reverse=True)
    assert {moment.steps for moment in moments} == {last.steps} == {last.done} and last.t == 0
    np.testing.assert_array_equal(moments[0].x_t, to_pixels(digits.noise(3, seed=2)))
    drawn = digits.sample(3, seed=2, label=3, guidance=2, **options)
    assert np.abs(last.x_t.astype(int) - drawn).max() <= 1
    np.testing.assert_array_equal(last.x_t, last.x0)


def test_leaving_early_ends_the_work_and_the_next_call_is_whole(digits, monkeypatch):
    worked, tell = [], LiveSampler._tell
    monkeypatch.setattr(
        LiveSampler, "_tell", lambda self, number, t, *seen: worked.append(t) or tell(self, number, t, *seen)
    )
    whole = [moment.x_t for moment in digits.watch(2, seed=1, steps=200)]
    assert len(worked) == 200
    iterate = digits.watch(2, seed=1, steps=200)
    assert next(iterate).done == 0
    iterate.close()
    for thread in {*threading.enumerate()} - {threading.main_thread()}:
        if thread.name.endswith("(_finish)"):
            thread.join(60)
    assert len(worked) < 400 - 100
    np.testing.assert_array_equal([moment.x_t for moment in digits.watch(2, seed=1, steps=200)], whole)


def test_who_looks_slowly_makes_the_walk_wait(digits):
    iterate = digits.watch(1, seed=1, steps=100)
    first = next(iterate)
    time.sleep(1.0)
    *_, last = iterate
    assert first.seconds <= 0.9 < last.seconds  # Else all would have been done, and kept, long before.


SCRIPT = """
import threading, time, ddpm_jax

def look():
    for moment in run.watch(1, steps=100):
        time.sleep(0.01)
    print(moment.done)

run = ddpm_jax.load_run("pretrained:digits")
threading.Thread(target=look).start()
walk = run.watch(1, steps=1000)
print(next(walk).done)
"""


def test_a_script_may_end_while_it_watches_and_its_threads_look_on():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert (done.returncode, sorted(done.stdout.split()), done.stderr) == (0, ["0", "100"], "")


def test_two_may_watch_the_same_sampler_at_once(digits):
    separate = [[moment.x_t for moment in digits.watch(2, seed=seed)] for seed in (1, 2)]
    together = zip(digits.watch(2, seed=1), digits.watch(2, seed=2), strict=True)
    for moments, expected in zip(together, zip(*separate, strict=True), strict=True):
        np.testing.assert_array_equal([moment.x_t for moment in moments], expected)


def test_inpainting_draws_where_the_mask_is_open_and_nowhere_else(digits):
    images = digits.sample(2, seed=7)
    mask = np.arange(64).reshape(8, 8) % 3 == 0
    *moments, last = digits.inpaint(images, mask, count=5, steps=8, resamples=2, jump=4, label=3)
    assert len(moments) == last.steps == 16
    np.testing.assert_array_equal(last.x_t[:, ~mask], images[[0, 1, 0, 1, 0]][:, ~mask])
    assert (last.x_t[:, mask] != images[[0, 1, 0, 1, 0]][:, mask]).any()
    *_, other = digits.inpaint(images, mask, count=5, steps=8, resamples=2, jump=4, label=3, seed=9)
    assert (other.x_t[:, mask] != last.x_t[:, mask]).any()


def test_mistakes_in_inpainting_are_named(digits):
    images, mask = digits.sample(2), np.eye(8)
    with pytest.raises(UserError, match=r"images are uint8 \[2, 8, 8\]; expected uint8 \[N, 8, 8, 1\]"):
        digits.inpaint(images[..., 0], mask)
    for bad in (np.ones((8, 8)), np.zeros((8, 8)), np.eye(4), np.eye(8)[..., None]):
        with pytest.raises(UserError, match=r"mask is float64 .*; expected numbers \[8, 8\], some 0"):
            digits.inpaint(images, bad)
    with pytest.raises(UserError, match="sample.task='inpaint' needs sample.sampler='ddpm', got 'ddim'"):
        digits.inpaint(images, mask, sampler="ddim")
    with pytest.raises(UserError, match="There is no option batch_size"):
        digits.watch(2, batch_size=4)


def test_a_watched_denoiser_answers_the_same_until_nobody_looks(draw):
    schedule, told, worked = build_schedule(Config()), [], []

    def denoiser(x_t, t):
        jax.debug.callback(lambda _: worked.append(1), x_t)
        return Prediction(x_t / 2, x_t / 3)

    looking = [True, True, False, True]
    answers = iter(looking)
    onlooker = watched(denoiser, 0, lambda _: np.asarray(next(answers)), lambda _, *seen: told.append(seen))
    pairs = step_pairs("leading", 1000, 4, "zero")
    x_T = draw.normal(size=(2, 8, 8, 1)).astype(np.float32)
    keys = image_keys(0, np.arange(2))
    jax.block_until_ready(jax.jit(lambda x: ddim(onlooker, schedule, x, keys, pairs))(x_T))
    jax.effects_barrier()
    assert [int(t) for t, _, _ in told] == pairs[looking, 0].tolist() and len(worked) == 3
    for _, x_t, x0 in told:
        np.testing.assert_allclose(x0, np.asarray(x_t) / 2, atol=1e-6)
    once = jax.jit(lambda x: ddim(denoiser, schedule, x, keys, pairs[:1]))(x_T)
    np.testing.assert_allclose(told[1][1], once.images, atol=1e-6)
