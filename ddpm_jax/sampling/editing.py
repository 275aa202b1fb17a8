"""Editing given images: inversion, interpolation, inpainting, variations. Pure functions over a Denoiser.

invert      x_0 -> the x_T that DDIM maps back to it         (Song et al. 2020, section 4.3; the ODE run backwards)
slerp       between two x_T along the sphere that noise lies on
inpaint     new pixels where a mask is 1 around known ones   (RePaint, Lugmayr et al. 2022)
noised      x_t of an image, where any sampler can start     (SDEdit, Meng et al. 2021)
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.likelihood import Variance
from ddpm_jax.diffusion.process import q_sample
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.sampling.ddpm import ancestral_step, ddpm_coefficients
from ddpm_jax.sampling.loop import SCAN, Loop, float32
from ddpm_jax.sampling.noise import draw_noise
from ddpm_jax.sampling.timesteps import Pairs
from ddpm_jax.shapes import AnyArray, ImageKeys, Images

Mask = Float[AnyArray, "batch height width _"]
"""1 where pixels are to be generated, 0 where they are known; one channel or as many as the images have."""
PixelMask = Float[AnyArray, "height width 1"]
"""One mask for all images."""
STEP, KNOWN, BACK = range(3)
"""Purposes of the noise in each step of inpainting."""


def invert(denoiser: Denoiser, schedule: Schedule, x0: Images, pairs: Pairs, *, loop: Loop = SCAN) -> Any:
    """x_t of each image at the highest step of `pairs`: DDIM's steps taken backwards.

    x0: in [-1, 1]; pairs: [steps, 2], those of the DDIM sampler that will map the result back to x0. A step from s to t
    uses the noise predicted at s, whereas DDIM will predict it at t: the error falls with the length of the steps.
    """
    t, s = pairs[::-1].T
    ratio = schedule.signal_rate[t] / schedule.signal_rate[s]
    # The clean image has no step of its own: it is denoised as if it were x_1.
    at = jnp.asarray(np.maximum(s, 1))

    def step(x: Images, memory: Any, coefficients: tuple[Array, ...]) -> tuple[Images, Images, Any]:
        at, signal_ratio, noise = coefficients
        prediction = denoiser(x, jnp.full(x.shape[:1], at))
        return signal_ratio * x + noise * prediction.eps, prediction.x0, memory

    return loop(step, x0, (), (at, *float32(ratio, schedule.noise_rate[t] - ratio * schedule.noise_rate[s])))


def slerp(a: Images, b: Images, weight: Float[Array, "batch"]) -> Images:
    """Spherical interpolation from a (weight 0) to b (weight 1), image by image.

    A straight line passes through vectors shorter than noise, which give flat images. It is used where no great circle
    is defined: between parallel vectors, and if one of them is zero.
    """
    axes = (1, 2, 3)
    lengths = jnp.sqrt(jnp.sum(a**2, axes) * jnp.sum(b**2, axes))
    angle = jnp.arccos(jnp.clip(jnp.sum(a * b, axes) / jnp.where(lengths > 0.0, lengths, 1.0), -1.0, 1.0))
    sine = jnp.sin(angle)
    straight = (sine < 1e-6) | (lengths == 0.0)
    safe = jnp.where(straight, 1.0, sine)
    from_a = jnp.where(straight, 1.0 - weight, jnp.sin((1.0 - weight) * angle) / safe)
    from_b = jnp.where(straight, weight, jnp.sin(weight * angle) / safe)
    return from_a.reshape(-1, 1, 1, 1) * a + from_b.reshape(-1, 1, 1, 1) * b


def noised(schedule: Schedule, x0: Images, t: int, keys: ImageKeys) -> Images:
    """x_t of given images, from which a sampler that starts at t generates variations."""
    return q_sample(schedule, x0, jnp.full(x0.shape[:1], t), draw_noise(keys, 0, x0.shape[1:]))


def resampled(pairs: Pairs, jump: int, resamples: int) -> tuple[Int[np.ndarray, "taken 2"], Int[np.ndarray, "taken"]]:
    """RePaint's order of the steps: each block of `jump` steps is taken `resamples` times, with x noised again between.

    Returns the pairs in the order in which they are taken, and for each the step u >= s to which x_s is noised.
    """
    order: list[int] = []
    back: list[int] = []
    for start in range(0, len(pairs), jump):
        block = list(range(start, min(start + jump, len(pairs))))
        for repeat in range(resamples):
            order += block
            back += [int(pairs[i, 1]) for i in block]
            if repeat < resamples - 1:
                back[-1] = int(pairs[start, 0])
    return pairs[order], np.array(back)


def inpaint_coefficients(schedule: Schedule, pairs: Pairs, jump: int, resamples: int) -> tuple[Any, ...]:
    """For every step of `resampled`: its number, DDPM's coefficients, and the rates of x_0 and noise in x_s and of x_s
    and noise in x_u; computed in float64.
    """
    taken, back = resampled(pairs, jump, resamples)
    signal, noise = schedule.signal_rate[taken[:, 1]], schedule.noise_rate[taken[:, 1]]
    ratio = schedule.signal_rate[back] / signal
    rates = float32(signal, noise, ratio, np.sqrt(np.maximum(1.0 - ratio**2, 0.0)))
    return jnp.arange(len(taken)), ddpm_coefficients(schedule, taken), *rates


def inpaint(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Images,
    keys: ImageKeys,
    pairs: Pairs,
    known: Images,
    mask: Mask,
    *,
    jump: int = 10,
    resamples: int = 10,
    variance: Variance = "fixed_small",
    loop: Loop = SCAN,
) -> Any:
    """Generates the pixels where mask is 1; the others are those of `known`, bit for bit if the last s is 0.

    known: in [-1, 1]; mask: 0 or 1, of the same shape or with one channel; variance: as for `ddpm`. Known pixels are
    noised to the level of each step, so that the generated ones depend on them; taking each block of `jump` steps
    `resamples` times makes the two agree. Unlike in Lugmayr et al.'s code, the first block is repeated too.
    """

    def step(x: Images, memory: Any, coefficients: tuple[Any, ...]) -> tuple[Images, Images, Any]:
        number, ddpm, signal_s, noise_s, back, back_noise = coefficients

        def noise(purpose: int) -> Images:
            return draw_noise(keys, 1 + 3 * number + purpose, x.shape[1:])  # 0 is x_T's.

        prediction = denoiser(x, jnp.full(x.shape[:1], ddpm.t))
        generated = ancestral_step(ddpm, prediction, x, noise(STEP), variance)
        x_s = jnp.where(mask > 0.5, generated, signal_s * known + noise_s * noise(KNOWN))
        return jnp.where(back < 1.0, back * x_s + back_noise * noise(BACK), x_s), prediction.x0, memory

    return loop(step, x_T, (), inpaint_coefficients(schedule, pairs, jump, resamples))
