"""Looking on while a sampler works, step by step:

    Denoiser -> one that tells of each call, and skips the work once nobody looks -> any sampler, compiled as ever

`Run.watch` offers it to Python, `scripts/playground.py` to a browser.
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, PyTree

from ddpm_jax.assemble import build_guidance, build_pairs, build_sampler, build_schedule, build_unet
from ddpm_jax.config import Config
from ddpm_jax.diffusion.denoiser import Denoiser, Prediction
from ddpm_jax.edit import PixelMask, build_inpainting
from ddpm_jax.network.bind import bind
from ddpm_jax.reporting.images import to_pixels
from ddpm_jax.sampling.editing import resampled
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.shapes import Images, Labels, Pixels, Steps
from ddpm_jax.training.step import from_pixels


class Moment(NamedTuple):
    """What a sampler sees at one of its steps; the last moment has t = 0 and the finished images."""

    done: int
    """Steps that came before."""
    steps: int
    """Of the whole walk."""
    t: int
    x_t: Pixels
    """The noisy images, uint8 [count, height, width, channels]."""
    x0: Pixels
    """The clean images that the model takes them for."""


class LiveSampler:
    """A sampler whose steps can be watched; compiled once for each number of images, for the first device."""

    def __init__(self, config: Config):
        self.config = config
        self._draw = jax.jit(self._drawing)
        self._numbers = itertools.count()
        self._onlookers: dict[int, SimpleQueue[tuple[Array, Array, Array] | None]] = {}

    def watch(
        self, params: PyTree, seed: int, labels: Labels | None, known: tuple[Pixels, PixelMask] | None = None
    ) -> Iterator[Moment]:
        """Draws sample.count images, and yields each step as it is done; closing the iterator ends the work early.

        known: the images to paint in and where, if the task is inpainting.
        """
        number, seen = next(self._numbers), SimpleQueue()
        self._onlookers[number] = seen
        with ThreadPoolExecutor(1) as worker:
            drawing = worker.submit(self._finish, number, params, seed, labels, known)
            drawing.add_done_callback(lambda _: seen.put(None))
            try:
                steps = self.steps
                for done, (t, x_t, x0) in enumerate(iter(seen.get, None)):
                    yield Moment(done, steps, int(t), to_pixels(np.asarray(x_t)), to_pixels(np.asarray(x0)))
                images = drawing.result()
                yield Moment(steps, steps, 0, images, images)
            finally:
                del self._onlookers[number]

    @property
    def steps(self) -> int:
        """How often the denoiser is asked."""
        sample, pairs = self.config.sample, build_pairs(self.config)
        return len(resampled(pairs, sample.jump, sample.resamples)[0] if sample.task == "inpaint" else pairs)

    def _finish(
        self, number: int, params: PyTree, seed: int, labels: Labels | None, known: tuple[Pixels, PixelMask] | None
    ) -> Pixels:
        drawn = to_pixels(jax.device_get(self._draw(number, params, seed, labels, known)))
        jax.effects_barrier()  # All that was told is in the queue.
        return drawn if known is None else np.where(known[1] > 0.5, drawn, known[0])

    def _drawing(
        self, number: Array, params: PyTree, seed: Array, labels: Array | None, known: tuple[Array, Array] | None
    ) -> Images:
        config = self.config
        schedule, pairs, guidance = build_schedule(config), build_pairs(config), build_guidance(config)
        keys = image_keys(seed, np.arange(config.sample.count))
        denoiser = bind(build_unet(config), params, schedule, config.diffusion.prediction, labels, guidance)
        denoiser = watched(denoiser, number, self._is_looked_at, self._tell)
        if known:
            pixels, mask = known
            return build_inpainting(config)(denoiser, from_pixels(pixels), keys, mask)
        shape = (config.data.image_size, config.data.image_size, config.data.channels)
        return build_sampler(config)(denoiser, schedule, draw_noise(keys, 0, shape), keys, pairs).images

    def _is_looked_at(self, number: Array) -> np.ndarray:
        return np.asarray(int(number) in self._onlookers)

    def _tell(self, number: Array, *seen: Array) -> None:
        onlooker = self._onlookers.get(int(number))
        if onlooker is not None:
            onlooker.put((seen[0], seen[1], seen[2]))


def watched(
    denoiser: Denoiser, number: Array | int, wanted: Callable[[Array], np.ndarray], tell: Callable[..., None]
) -> Denoiser:
    """The same Denoiser, which calls tell(number, t, x_t, x0) on the host, and answers with zeros once nobody wants it.

    number: of the onlooker, by which wanted(number) and tell know it, since both are called at run time from within
    code that is compiled once for all; the images of a call have one t.
    """

    def watching(x_t: Images, t: Steps) -> Prediction:
        answer = jax.eval_shape(denoiser, x_t, t)

        def nothing(x_t: Images, t: Steps) -> Prediction:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), answer)

        # An exception raised in a callback would end the work, too, but leaves other devices waiting, and a traceback.
        asked = io_callback(wanted, jax.ShapeDtypeStruct((), bool), number)
        prediction = jax.lax.cond(asked, denoiser, nothing, x_t, t)
        jax.debug.callback(tell, number, t[0], x_t, prediction.x0)
        return prediction

    return watching
