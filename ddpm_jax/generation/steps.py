"""Samplers driven step by step from Python: each step is a call of a compiled function, so they can stop any time."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from ddpm_jax.builders import build_inpainting, build_pairs, build_pairs_from_noise, build_sampler
from ddpm_jax.config import Config
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.pixels import from_pixels, to_pixels
from ddpm_jax.generation.conditions import with_known_pixels
from ddpm_jax.generation.draw import Compiled, compile_work
from ddpm_jax.runtime.compilation import own_settings
from ddpm_jax.sampling.editing import resampled
from ddpm_jax.sampling.loop import Loop, first_state, step_loop
from ddpm_jax.sampling.noise import draw_noise
from ddpm_jax.shapes import ConditionPixels, ImageKeys, Labels, Pixels

Known = tuple[Any, Any]
"""Images, pixels [batch, height, width, channels], and a mask [height, width, 1], 1 where they are inpainted."""


class SamplingStep(NamedTuple):
    """The state of a sampler before one of its steps; the last one has t = 0 and the finished images."""

    done: int
    """Number of steps before this one."""
    steps: int
    """Total number of steps."""
    seconds: float
    """Time since the start of the first step, without compilation."""
    t: int
    x_t: Pixels
    """The noisy images, pixels [count, height, width, channels]."""
    x0: Pixels
    """The clean images that the model predicts from them."""


class StepSampler:
    """The sampler of a configuration, compiled as one step, for any number of concurrent iterations."""

    def __init__(self, config: Config, mesh: Mesh) -> None:
        pairs, self._count, self._mesh = build_pairs(config), config.sample.count, mesh
        self._config = config
        if config.sample.task == "inpaint":
            pairs, _ = resampled(pairs, config.sample.jump, config.sample.resamples)
        self._times = pairs[:, 0]
        run = _under_any_loop(config)

        def start(denoiser: Denoiser, keys: ImageKeys, known: Known | None) -> Any:
            return run(denoiser, keys, known, first_state)

        def step(denoiser: Denoiser, keys: ImageKeys, inputs: Any) -> Any:
            known, state, numbers = inputs
            return run(denoiser, keys, known, step_loop(state, numbers[0]))

        self._start, self._step = compile_work(config, mesh, start), compile_work(config, mesh, step)
        self._ahead_of_time: dict[PyTree, Compiled] = {}

    def iterate(
        self,
        params: PyTree,
        seed: int,
        labels: Labels | None,
        known: Known | None = None,
        conditions: ConditionPixels | None = None,
    ) -> Iterator[SamplingStep]:
        """Samples sample.count images and yields each step; closing the iterator stops it.

        known: the images to inpaint and the mask, if inpainting is the task; conditions: one for each image, for an
        image-to-image model.
        """
        depth = self._config.data.depth
        count, steps = self._count, len(self._times)
        indices = np.arange(-(-count // self._mesh.size) * self._mesh.size)
        rows = np.minimum(indices, count - 1)
        inputs = None if known is None else (known[0][rows], np.broadcast_to(known[1], (len(rows), *known[1].shape)))
        given = (params, seed, indices, None if labels is None else np.asarray(labels)[rows])
        conditions = None if conditions is None else conditions[rows]
        state = self._start(*given, inputs, conditions)
        step = self._compile(*given, (inputs, state, np.zeros_like(indices)), conditions)
        began = time.monotonic()
        for done, t in enumerate(self._times):
            x_t = state[0]
            # The number of the step is repeated for each image, since inputs are sharded along the batch.
            state, x0 = step(*given, (inputs, state, np.full_like(indices, done)), conditions)
            pixels = [to_pixels(images, depth)[:count] for images in jax.device_get((x_t, x0))]
            yield SamplingStep(done, steps, time.monotonic() - began, int(t), *pixels)
        images = to_pixels(with_known_pixels(self._config, jax.device_get(state[0]), conditions), depth)[:count]
        if known is not None:
            images = np.where(known[1] > 0.5, images, known[0])
        yield SamplingStep(steps, steps, time.monotonic() - began, 0, images, images)

    def _compile(self, *arguments: Any) -> Compiled:
        """The step for arguments of these types, compiled ahead of its first call, which is timed."""
        leaves, structure = jax.tree.flatten(arguments)
        types = (structure, *((jax.typeof(leaf), getattr(leaf, "sharding", None)) for leaf in leaves))
        if types not in self._ahead_of_time:
            self._ahead_of_time[types] = own_settings()(self._step.lower(*arguments).compile())
        return self._ahead_of_time[types]


def _under_any_loop(config: Config) -> Callable[[Denoiser, ImageKeys, Any, Loop], Any]:
    """The configured sampler or inpainting, as a function of the loop that runs it."""
    if config.sample.task == "inpaint":
        paint = build_inpainting(config)
        return lambda denoiser, keys, known, loop: paint(denoiser, from_pixels(known[0]), keys, known[1], loop)
    sampler, pairs, shape = build_sampler(config), build_pairs_from_noise(config), config.image_shape
    return lambda denoiser, keys, _, loop: sampler(denoiser, draw_noise(keys, 0, shape), keys, pairs, loop)
