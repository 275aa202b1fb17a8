"""The same model, noise and steps in diffusers' schedulers and here: two independent implementations, one trajectory.

Needs requirements-peers.txt, and is skipped without it. The model is arbitrary, far from any data: agreement on it is
agreement of the arithmetic. diffusers counts steps from 0 and holds its tables in float32, ours from 1 in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.denoiser import prediction_of_output
from ddpm_jax.diffusion.schedule import linear_betas, schedule_of_betas
from ddpm_jax.sampling import ddim as ddim_module
from ddpm_jax.sampling import ddpm as ddpm_module
from ddpm_jax.sampling import heun as heun_module
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.ddpm import ddpm
from ddpm_jax.sampling.dpm_solver import dpm_solver
from ddpm_jax.sampling.heun import heun
from ddpm_jax.sampling.noise import image_keys
from ddpm_jax.sampling.threshold import clip, constrain, dynamic
from ddpm_jax.sampling.timesteps import listed_pairs, step_pairs
from ddpm_jax.sampling.unipc import unipc
from tests.peers import peer

torch = peer("torch")
diffusers = peer("diffusers")

KINDS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
OURS = {"leading": "leading_open", "trailing": "trailing", "linspace": "linspace_open"}
"""Our names of the spacings of diffusers' multistep solvers."""
SHAPE = (2, 6, 6, 3)
KEYS = image_keys(0, np.arange(SHAPE[0]))
TRAINED = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


@pytest.fixture
def x_T(draw):
    return draw.normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def model(draw):
    """A smooth function of x_t and t that mixes the pixels of an image, about as large as eps, x_0 or v."""
    size = int(np.prod(SHAPE[1:]))
    mixing = jnp.asarray(draw.normal(size=(size, size)) / size**0.5, jnp.float32)
    shift = jnp.asarray(draw.normal(size=(1, size)), jnp.float32)

    @jax.jit
    def output(x_t, t):
        phase = (t.astype(jnp.float32) / 1000.0).reshape(-1, 1)
        mixed = jnp.matmul(x_t.reshape(len(t), -1), mixing, precision="highest")
        return jnp.tanh(0.5 * mixed + jnp.cos(3.0 * phase) * shift).reshape(x_t.shape)

    return output


def theirs(scheduler, model, x_T, scale=1.0, **options):
    """The last sample of diffusers' loop, as [batch, height, width, channels]; scale: of x_T, before the first step."""
    x = torch.from_numpy(scale * x_T.transpose(0, 3, 1, 2))
    for n in scheduler.timesteps:
        x_t = jnp.asarray(scheduler.scale_model_input(x, n).numpy().transpose(0, 2, 3, 1))
        output = np.asarray(model(x_t, jnp.full(len(x_t), int(n) + 1)))
        x = scheduler.step(torch.from_numpy(output.transpose(0, 3, 1, 2).copy()), n, x, **options).prev_sample
    return x.numpy().transpose(0, 2, 3, 1)


def denoiser_of(schedule, kind, model):
    return lambda x_t, t: prediction_of_output(schedule, kind, model(x_t, t), x_t, t)


def assert_equal(ours, expected):
    """Equal to 1e-4 of the largest value."""
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("constraint", ["none", "clip", "dynamic", "rederived"])
def test_ddim(linear, model, x_T, kind, steps, spacing, constraint):
    scheduler = diffusers.DDIMScheduler(
        **TRAINED,
        prediction_type=KINDS[kind],
        timestep_spacing=spacing,
        clip_sample=constraint in ("clip", "rederived"),
        thresholding=constraint == "dynamic",
        dynamic_thresholding_ratio=0.9,
        sample_max_value=1.5,
    )
    scheduler.set_timesteps(steps)
    expected = theirs(scheduler, model, x_T, use_clipped_model_output=constraint == "rederived")
    pairs = step_pairs(spacing, 1000, steps)
    np.testing.assert_array_equal(pairs[:, 0], scheduler.timesteps.numpy() + 1)
    # diffusers' DDIM ends each step T // S lower, wherever the next one starts.
    pairs[:, 1] = np.maximum(pairs[:, 0] - 1000 // steps, 0)
    denoiser = denoiser_of(linear, kind, model)
    if constraint != "none":
        threshold = dynamic(0.9, 1.5) if constraint == "dynamic" else clip
        denoiser = constrain(denoiser, linear, threshold, keep_eps=constraint != "rederived")
    assert_equal(ddim(denoiser, linear, x_T, KEYS, pairs).images, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("steps", "spacing"), [(7, "leading"), (20, "trailing"), (25, "linspace")])
def test_stochastic_samplers_with_the_same_noise(linear, model, x_T, monkeypatch, draw, kind, steps, spacing):
    noise = draw.normal(size=SHAPE).astype(np.float32)
    for module in (ddim_module, ddpm_module):
        monkeypatch.setattr(module, "draw_noise", lambda *_: jnp.asarray(noise))
    pytorch_noise = torch.from_numpy(noise.transpose(0, 3, 1, 2).copy())
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: pytorch_noise)
    pairs, denoiser = step_pairs(spacing, 1000, steps), denoiser_of(linear, kind, model)

    for variance in ("fixed_small", "fixed_large"):
        scheduler = diffusers.DDPMScheduler(
            **TRAINED,
            prediction_type=KINDS[kind],
            variance_type=variance,
            timestep_spacing=spacing,
            clip_sample=False,
        )
        scheduler.set_timesteps(steps)
        expected = theirs(scheduler, model, x_T)
        if pairs[-1, 0] > 1:  # diffusers adds noise to the clean image unless its last step is its step 0.
            expected = expected - last_noise(scheduler, noise)
        assert_equal(ddpm(denoiser, linear, x_T, KEYS, pairs, variance=variance).images, expected)

    if spacing != "linspace":
        scheduler = diffusers.DDIMScheduler(
            **TRAINED, prediction_type=KINDS[kind], timestep_spacing=spacing, clip_sample=False
        )
        scheduler.set_timesteps(steps)
        expected = theirs(scheduler, model, x_T, eta=0.7, variance_noise=pytorch_noise)
        assert_equal(ddim(denoiser, linear, x_T, KEYS, pairs, eta=0.7).images, expected)


def last_noise(scheduler, noise):
    """The noise that diffusers' DDPM adds in its last step."""
    return float(scheduler._get_variance(scheduler.timesteps[-1])) ** 0.5 * noise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [3, 10, 20])
@pytest.mark.parametrize("spacing", OURS)
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver(linear, model, x_T, kind, steps, spacing, final, order):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **TRAINED,
        prediction_type=KINDS[kind],
        solver_order=order,
        timestep_spacing=spacing,
        final_sigmas_type=final,
        lower_order_final=steps != 10,
    )
    scheduler.set_timesteps(steps)
    expected = theirs(scheduler, model, x_T)
    pairs = step_pairs(OURS[spacing], 1000, steps, final)
    np.testing.assert_array_equal(pairs[:, 0], scheduler.timesteps.numpy() + 1)
    lower = "few" if steps != 10 else "never"
    ours = dpm_solver(
        denoiser_of(linear, kind, model),
        linear,
        x_T,
        KEYS,
        pairs,
        order=order,
        lower_order_final=lower,
        third_order="diffusers",
    )
    assert_equal(ours.images, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [3, 10, 20])
@pytest.mark.parametrize("spacing", OURS)
@pytest.mark.parametrize(("final", "lower"), [("zero", True), ("sigma_min", True), ("sigma_min", False)])
@pytest.mark.parametrize("order", [1, 2])
def test_unipc(linear, model, x_T, kind, steps, spacing, final, lower, order):
    scheduler = diffusers.UniPCMultistepScheduler(
        **TRAINED,
        prediction_type=KINDS[kind],
        solver_order=order,
        solver_type="bh2",
        timestep_spacing=spacing,
        final_sigmas_type=final,
        lower_order_final=lower,
    )
    scheduler.set_timesteps(steps)
    expected = theirs(scheduler, model, x_T)
    pairs = step_pairs(OURS[spacing], 1000, steps, final)
    denoiser, lower_order_final = denoiser_of(linear, kind, model), "always" if lower else "never"
    ours = unipc(denoiser, linear, x_T, KEYS, pairs, order=order, lower_order_final=lower_order_final)
    assert_equal(ours.images, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", [dpm_solver, unipc])
def test_solvers_under_dynamic_thresholding(linear, model, x_T, kind, solver):
    peer = {dpm_solver: diffusers.DPMSolverMultistepScheduler, unipc: diffusers.UniPCMultistepScheduler}[solver]
    scheduler = peer(
        **TRAINED, prediction_type=KINDS[kind], thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1.5
    )
    scheduler.set_timesteps(12)
    denoiser = constrain(denoiser_of(linear, kind, model), linear, dynamic(0.9, 1.5))
    ours = solver(denoiser, linear, x_T, KEYS, step_pairs("linspace_open", 1000, 12)).images
    assert_equal(ours, theirs(scheduler, model, x_T))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("steps", "spacing"), [(20, "leading"), (5, "trailing"), (20, "trailing")])
@pytest.mark.parametrize("clipped", [False, True])
def test_heun(linear, model, x_T, monkeypatch, kind, steps, spacing, clipped):
    """With "linspace", diffusers visits fractions of steps."""
    monkeypatch.setattr(heun_module, "MAX_RATIO", 1e6)  # diffusers corrects every step.
    scheduler = diffusers.HeunDiscreteScheduler(
        **TRAINED, prediction_type=KINDS[kind], timestep_spacing=spacing, clip_sample=clipped
    )
    scheduler.set_timesteps(steps)
    pairs, denoiser = step_pairs(spacing, 1000, steps), denoiser_of(linear, kind, model)
    np.testing.assert_array_equal(pairs[:, 0], np.unique(scheduler.timesteps.numpy())[::-1] + 1)
    # Its x is ours divided by the signal rate.
    expected = theirs(scheduler, model, x_T, np.float32(1.0 / linear.signal_rate[pairs[0, 0]]))
    assert_equal(
        heun(constrain(denoiser, linear, clip) if clipped else denoiser, linear, x_T, KEYS, pairs).images, expected
    )


def test_karras_noise_levels():
    """Of a schedule that ends below our highest noise level; diffusers visits the fractions of steps that we round."""
    ends = {**TRAINED, "beta_end": 0.016}
    sigma = schedule_of_betas(linear_betas(1000, beta_end=0.016)).sigma
    for steps in (5, 18, 50):
        scheduler = diffusers.HeunDiscreteScheduler(**ends, use_karras_sigmas=True)
        scheduler.set_timesteps(steps)
        fractions = np.unique(scheduler.timesteps.numpy())[::-1]
        pairs = step_pairs("karras", 1000, steps, sigma=sigma)
        np.testing.assert_array_equal(pairs[:, 0], np.round(fractions) + 1)


def test_a_list_of_steps(linear, model, x_T):
    scheduler = diffusers.DPMSolverMultistepScheduler(**TRAINED)
    scheduler.set_timesteps(timesteps=[949, 700, 420, 99, 20])
    pairs = listed_pairs([950, 701, 421, 100, 21], 1000)
    ours = dpm_solver(denoiser_of(linear, "eps", model), linear, x_T, KEYS, pairs)
    assert_equal(ours.images, theirs(scheduler, model, x_T))


@pytest.mark.parametrize("steps", [2, 3, 7, 16, 25, 50, 333, 999])
def test_spacings(steps):
    for spacing in OURS:
        for scheduler in (diffusers.DDIMScheduler, diffusers.DPMSolverMultistepScheduler):
            name = spacing if scheduler is diffusers.DDIMScheduler else OURS[spacing]
            peer = scheduler(**TRAINED, timestep_spacing=spacing)
            peer.set_timesteps(steps)
            np.testing.assert_array_equal(step_pairs(name, 1000, steps)[:, 0], peer.timesteps.numpy() + 1)
