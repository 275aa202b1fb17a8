"""Working on given images: inversion, interpolation, inpainting, variations. Pure functions over a Denoiser.

invert      x_0 -> the x_T that DDIM turns back into it      (Song et al. 2020, section 4.3; the ODE run backwards)
slerp       between two x_T along the sphere that noise lies on
inpaint     new pixels where a mask is 1 around known ones   (RePaint, Lugmayr et al. 2022)
noised      x_t of an image, from where any sampler goes on  (SDEdit, Meng et al. 2021)
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.likelihood import Variance
from ddpm_jax.diffusion.process import q_sample
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.sampling.ddpm import StepCoefficients as DdpmCoefficients
from ddpm_jax.sampling.ddpm import ancestral_step, ddpm_coefficients
from ddpm_jax.sampling.loop import SCAN, Loop
from ddpm_jax.sampling.noise import draw_noise
from ddpm_jax.sampling.timesteps import Pairs
from ddpm_jax.shapes import AnyArray, ImageKeys, Images

Mask = Float[AnyArray, "batch height width _"]
"""1 where pixels are to be drawn, 0 where they are known; one channel may serve for all."""
PixelMask = Float[AnyArray, "height width 1"]
"""The same for all images alike."""
STEP, KNOWN, BACK = range(3)
"""What noise is drawn for in each row of inpainting."""


class InvertCoefficients(NamedTuple):
    """One step from s up to t, scalars inside the scan."""

    at: Array
    x: Array
    eps: Array


def invert(denoiser: Denoiser, schedule: Schedule, x0: Images, pairs: Pairs, *, loop: Loop = SCAN) -> Any:
    """The x_T of each image, as far as `pairs` go up: DDIM's steps taken backwards.

    x0: in [-1, 1]; pairs: [steps, 2] as for the sampler that shall turn the result back. A step from s to t takes the
    noise to be what the denoiser sees at s, where DDIM will see it at t: the error falls with the length of the steps.
    """
    t, s = pairs[::-1].T
    ratio = schedule.signal_rate[t] / schedule.signal_rate[s]
    columns = (ratio, schedule.noise_rate[t] - ratio * schedule.noise_rate[s])
    # The clean image has no step of its own: it is looked at as if it were x_1.
    rows = InvertCoefficients(jnp.asarray(np.maximum(s, 1)), *(jnp.asarray(column, jnp.float32) for column in columns))

    def step(x: Images, memory: Any, c: InvertCoefficients) -> tuple[Images, Images, Any]:
        prediction = denoiser(x, jnp.full(x.shape[:1], c.at))
        return c.x * x + c.eps * prediction.eps, prediction.x0, memory

    return loop(step, x0, (), rows)


def slerp(a: Images, b: Images, weight: Float[Array, "batch"]) -> Images:
    """Spherical interpolation from a (weight 0) to b (weight 1), image by image.

    A straight line would lead through shorter vectors than noise has, and to flat images. It is taken where no circle
    is defined: between parallel vectors, and where one of them is zero.
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
    """x_t of given images, from which a sampler that starts at t draws variations of them."""
    return q_sample(schedule, x0, jnp.full(x0.shape[:1], t), draw_noise(keys, 0, x0.shape[1:]))


class InpaintCoefficients(NamedTuple):
    """One step from t to s, and back up to u; u = s goes on downwards."""

    number: Array
    ddpm: DdpmCoefficients
    signal_s: Array
    noise_s: Array
    back: Array
    back_noise: Array


def resampled(pairs: Pairs, jump: int, resamples: int) -> tuple[Int[np.ndarray, "walked 2"], Int[np.ndarray, "walked"]]:
    """RePaint's walk: after every `jump` steps back up over them, until they were walked `repeats` times.

    Returns the pairs in the order in which they are walked, and for each the u that its end is noised back to.
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


def inpaint_coefficients(schedule: Schedule, pairs: Pairs, jump: int, resamples: int) -> InpaintCoefficients:
    """Coefficients of every step of the walk, computed in float64."""
    walked, back = resampled(pairs, jump, resamples)
    s = walked[:, 1]
    ratio = schedule.signal_rate[back] / schedule.signal_rate[s]
    columns = (schedule.signal_rate[s], schedule.noise_rate[s], ratio, np.sqrt(np.maximum(1.0 - ratio**2, 0.0)))
    numbers, ddpm = jnp.arange(len(walked)), ddpm_coefficients(schedule, walked)
    return InpaintCoefficients(numbers, ddpm, *(jnp.asarray(column, jnp.float32) for column in columns))


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
    """Draws the pixels where mask is 1; the others end as `known` has them, to the last bit where the walk ends at 0.

    known: in [-1, 1]; mask: 0 or 1, of the same shape or with one channel; variance: as for `ddpm`. Known pixels are
    noised to each level, so that the drawn ones see them; going back up `repeats` times over every `jump` steps lets
    the two agree. Unlike Lugmayr et al.'s, every such stretch is repeated, the first one too.
    """

    def step(x: Images, memory: Any, c: InpaintCoefficients) -> tuple[Images, Images, Any]:
        def noise(purpose: int) -> Images:
            # Number 0 is x_T's.
            return draw_noise(keys, 1 + 3 * c.number + purpose, x.shape[1:])

        prediction = denoiser(x, jnp.full(x.shape[:1], c.ddpm.t))
        drawn = ancestral_step(c.ddpm, prediction, x, noise(STEP), variance)
        kept = c.signal_s * known + c.noise_s * noise(KNOWN)
        x_s = jnp.where(mask > 0.5, drawn, kept)
        return jnp.where(c.back < 1.0, c.back * x_s + c.back_noise * noise(BACK), x_s), prediction.x0, memory

    return loop(step, x_T, (), inpaint_coefficients(schedule, pairs, jump, resamples))
