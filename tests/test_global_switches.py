"""JAX's global switches, set by the environment or by another library, change no result."""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import load_run
from ddpm_jax.commands import cli
from ddpm_jax.diffusion.degradations import draw_masks, enlarge, shrink
from ddpm_jax.diffusion.guidance import Guidance
from ddpm_jax.diffusion.likelihood import bits_per_dim
from ddpm_jax.diffusion.objective import Objective, losses
from ddpm_jax.diffusion.pixels import on_pixel_grid
from ddpm_jax.diffusion.randomness import Purpose, purpose_key
from ddpm_jax.diffusion.schedule import cosine_betas, schedule_of_betas
from ddpm_jax.network.bind import bind
from ddpm_jax.network.unet import UNet, init_params
from ddpm_jax.sampling.editing import inpaint, invert, noised, slerp
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.threshold import constrain, dynamic
from ddpm_jax.sampling.timesteps import step_pairs
from ddpm_jax.training.checkpoint import checkpoint_steps
from tests.analytic import gaussian_denoiser
from tests.end_to_end.commands import RECIPE, ROOT, final_state
from tests.sampling.samplers import SAMPLERS

SWITCHES = {
    "x64": partial(jax.enable_x64, True),
    "rbg": partial(jax.default_prng_impl, "rbg"),
    "unsafe_rbg": partial(jax.default_prng_impl, "unsafe_rbg"),
    "not partitionable": partial(jax.threefry_partitionable, False),
    "disable_jit": jax.disable_jit,
    "strict types": partial(jax.numpy_dtype_promotion, "strict"),
    "no rank promotion": partial(jax.numpy_rank_promotion, "raise"),
    "debug_nans": partial(jax.debug_nans, True),
    "matmul precision": partial(jax.default_matmul_precision, "highest"),
}
SCHEDULE = schedule_of_betas(cosine_betas(8))
PAIRS = step_pairs("leading", 8, 4)
UNET = UNet(2, 4, (1, 2), 1, (2,), norm_groups=2, labels=3)


def assert_same(found, expected):
    """Asserts that two trees hold the same bits of the same types."""
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    types = [jax.tree.map(lambda leaf: np.asarray(leaf).dtype, tree) for tree in (found, expected)]
    assert types[0] == types[1]


def pure_results(params) -> dict:
    """The results of functions of diffusion, network and sampling for arrays of float32."""
    keys, labels = image_keys(3, np.arange(2)), jnp.array([0, -1], jnp.int32)
    x_T, t = draw_noise(keys, 0, (4, 4, 1)), jnp.array([1, 8], jnp.int32)
    network = bind(UNET, params, SCHEDULE, "eps", labels, Guidance(2.0, (2, 6), 0.5))
    denoiser = constrain(gaussian_denoiser(SCHEDULE, 0.3, 0.25), SCHEDULE, dynamic(0.9))
    x0 = jnp.tanh(x_T)
    x_t = noised(SCHEDULE, x0, 5, keys)
    mask = jnp.zeros((2, 4, 4, 1), jnp.float32).at[:, 2:].set(1.0)
    objective, output = Objective("v", learned_variance=True), jnp.concatenate([x_t, x0], axis=-1)
    chosen = ("ddpm-learned", "ddim-eta", "dpm_solver-3", "unipc-2")
    return {
        "noise": x_T,
        "prediction": network(x_T, t),
        "bound": bits_per_dim(denoiser, SCHEDULE, x0, keys),
        "loss": losses(objective, SCHEDULE, output, x0, x_t, t, x_T),
        "inverted": invert(denoiser, SCHEDULE, x0, PAIRS).images,
        "condition": on_pixel_grid(enlarge(shrink(x0, 2, "lanczos"), 4, 4), 8),
        "masks": draw_masks(keys, 6, 5),
        "between": slerp(x_T[:1], x_T[1:], jnp.array([0.3], jnp.float32)),
        "inpainted": inpaint(denoiser, SCHEDULE, x_T, keys, PAIRS, x0, mask, jump=2, resamples=2).images,
        **{name: SAMPLERS[name](denoiser, SCHEDULE, x_T, keys, PAIRS).images for name in chosen},
    }


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(lambda: init_params(UNET, jax.random.key(0), (4, 4, 1)))
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: draw.normal(0.0, 0.1, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def expected(params) -> dict:
    return jax.device_get(jax.jit(pure_results)(params))


@pytest.mark.parametrize("switch", ["x64", "not partitionable", "matmul precision"])
def test_pure_functions_give_the_same_bits(switch, params, expected):
    with SWITCHES[switch]():
        found = jax.device_get(jax.jit(pure_results)(params))
    for name in expected:
        assert_same(found[name], expected[name])


@pytest.mark.parametrize("switch", SWITCHES)
def test_keys_are_the_same(switch):
    """Eagerly: JAX traces nothing anew where only the default kind of key is another."""
    key = purpose_key(7, Purpose.STEP)
    with SWITCHES[switch]():
        np.testing.assert_array_equal(jax.random.key_data(purpose_key(7, Purpose.STEP)), jax.random.key_data(key))


def test_keys_are_those_of_jax_whatever_the_seed_offset():
    def data():
        keys = purpose_key(2**31 - 1, Purpose.INIT), jax.random.fold_in(jax.random.key(2**31 - 1), Purpose.INIT)
        return [jax.random.key_data(key) for key in keys]

    own, of_jax = data()
    np.testing.assert_array_equal(own, of_jax)
    jax.config.update("jax_random_seed_offset", 5)
    try:
        np.testing.assert_array_equal(data()[0], own)
    finally:
        jax.config.update("jax_random_seed_offset", 0)


def run_results(run) -> dict:
    """The results of the Python interface."""
    x_T, options = run.noise(2, seed=1), {"seed": 1, "steps": 4}
    inpainted = run.inpaint(np.zeros((1, 8, 8, 1), np.uint8), np.eye(8), resamples=1, **options)
    return {
        "noise": x_T,
        "prediction": tuple(run.denoiser(x_T, [1, 8])[:2]),
        "images": run.sample(2, sampler="ddpm", **options),
        "steps": [step.x0 for step in run.iter_steps(2, sampler="unipc", **options)],
        "inpainted": [step.x_t for step in inpainted],
    }


def test_the_python_interface_gives_the_same_bits(workdir):
    expected = run_results(load_run(workdir))
    with ExitStack() as stack:
        for name in SWITCHES.keys() - {"matmul precision"}:  # It is the user's, and everything would be compiled again.
            stack.enter_context(SWITCHES[name]())
        found = run_results(load_run(workdir))
    assert_same(found, expected)


QUIET = ["--config.log.preview_every=0", "--config.log.validate_every=0"]
INTERPOLATION = [f"--config.sample.{option}" for option in ("task=interpolate", "count=2", "sampler=ddim", "steps=2")]
PROGRAM = """
import sys
from ddpm_jax.commands.cli import main

for command in sys.argv[1:]:
    assert main(["main.py", *command.split()]) == 0
"""
ENVIRONMENT = {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "5",
    "JAX_DISABLE_JIT": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_TRANSFER_GUARD": "disallow",
}


@pytest.mark.parametrize("name", ["JAX_ENABLE_X64", "JAX_DEFAULT_PRNG_IMPL"])
def test_a_value_that_jax_refuses_is_one_line(name):
    command = [sys.executable, "main.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {name: "maybe"}, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "maybe" in line and name.lower() in line.lower() and "unset it" in line


def test_commands_give_the_same_bits_in_any_environment(workdir, tmp_path):
    """A run trained anew, one resumed from the first checkpoint, and images interpolated by it."""
    plain, resumed = tmp_path / "plain", tmp_path / "resumed"
    shutil.copytree(workdir, plain, ignore=shutil.ignore_patterns("samples"))  # Those of other tests.
    shutil.copytree(plain, resumed)
    shutil.rmtree(resumed / "checkpoints" / str(checkpoint_steps(resumed / "checkpoints")[-1]))
    commands = [
        [RECIPE, f"--workdir={tmp_path / 'new'}", *QUIET],
        [f"--workdir={resumed}"],
        ["--mode=sample", f"--workdir={resumed}", *INTERPOLATION],
    ]
    program = [sys.executable, "-c", PROGRAM, *map(" ".join, commands)]
    done = subprocess.run(program, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = final_state(plain)
    assert_same(final_state(tmp_path / "new"), expected)
    assert_same(final_state(resumed), expected)
    assert cli.main(["main.py", "--mode=sample", f"--workdir={plain}", *INTERPOLATION]) == 0
    (images,), (others,) = (folder.glob("samples/*-interpolate-*/samples.npz") for folder in (plain, resumed))
    assert_same(np.load(others)["arr_0"], np.load(images)["arr_0"])
