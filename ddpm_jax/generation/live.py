"""Looking on while a sampler works, step by step:

    Denoiser -> one that tells of each call, and skips the work once nobody looks -> any sampler, compiled as ever

`Run.watch` offers it to Python, `scripts/playground.py` to a browser.
"""

import atexit
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import Full, Queue
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, PyTree

from ddpm_jax.builders import build_guidance, build_inpainting, build_pairs, build_sampler, build_schedule, build_unet
from ddpm_jax.config import Config
from ddpm_jax.diffusion.denoiser import Denoiser, Prediction
from ddpm_jax.diffusion.pixels import from_pixels, to_pixels
from ddpm_jax.network.bind import bind
from ddpm_jax.sampling.editing import PixelMask, resampled
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.shapes import Images, Labels, Pixels, Steps

BACKLOG = 16
"""Moments that may wait to be looked at."""


class Moment(NamedTuple):
    """What a sampler sees at one of its steps; the last moment has t = 0 and the finished images."""

    done: int
    """Steps that came before."""
    steps: int
    """Of the whole walk."""
    seconds: float
    """Since the first step began; compilation does not count."""
    t: int
    x_t: Pixels
    """The noisy images, uint8 [count, height, width, channels]."""
    x0: Pixels
    """The clean images that the model takes them for."""


class Onlooker:
    """Who watches one walk, with the steps that it has not taken yet; where they are too many, the walk waits."""

    def __init__(self) -> None:
        self.is_there = True
        self.images: Future[Pixels] = Future()
        self._seen: Queue[tuple[float, int, Pixels, Pixels] | None] = Queue(BACKLOG)
        self._began: float | None = None

    def start(self) -> None:
        """The walk is about to take a step."""
        self._began = self._began or time.monotonic()

    def see(self, t: Array, x_t: Array, x0: Array) -> None:
        """The walk has taken a step."""
        self._offer((self.seconds(), int(t), to_pixels(np.asarray(x_t)), to_pixels(np.asarray(x0))))

    def seconds(self) -> float:
        """Since the first step began."""
        return time.monotonic() - (self._began or time.monotonic())

    def end(self) -> None:
        """The walk is over."""
        self._offer(None)

    def leave(self) -> None:
        """Nobody looks any more."""
        self.is_there = False

    def __iter__(self) -> Iterator[tuple[float, int, Pixels, Pixels]]:
        return iter(self._seen.get, None)

    def _offer(self, seen: tuple[float, int, Pixels, Pixels] | None) -> None:
        while self.is_there:
            with suppress(Full):
                return self._seen.put(seen, timeout=0.2)


class LiveSampler:
    """A sampler whose steps can be watched, by several at once; compiled for the first device."""

    def __init__(self, config: Config):
        self.config = config
        self._draw = jax.jit(self._drawing)
        self._numbers = itertools.count()
        self._onlookers: dict[int, Onlooker] = {}

    def watch(
        self, params: PyTree, seed: int, labels: Labels | None, known: tuple[Pixels, PixelMask] | None = None
    ) -> Iterator[Moment]:
        """Draws sample.count images, and yields each step as it is done; closing the iterator ends the work early.

        known: the images to paint in and where, if the task is inpainting.
        """
        number, onlooker = next(self._numbers), Onlooker()
        self._onlookers[number] = onlooker
        try:
            work = threading.Thread(target=self._finish, args=(number, params, seed, labels, known), daemon=True)
            _UNDER_WAY[work] = onlooker
            work.start()
            steps = self.steps
            for done, (seconds, t, x_t, x0) in enumerate(onlooker):
                yield Moment(done, steps, seconds, t, x_t, x0)
            images = onlooker.images.result()
            yield Moment(steps, steps, onlooker.seconds(), 0, images, images)
        finally:
            onlooker.leave()  # From here on, the steps that are left cost next to nothing.

    @property
    def steps(self) -> int:
        """How often the denoiser is asked."""
        sample, pairs = self.config.sample, build_pairs(self.config)
        return len(resampled(pairs, sample.jump, sample.resamples)[0] if sample.task == "inpaint" else pairs)

    def _finish(
        self, number: int, params: PyTree, seed: int, labels: Labels | None, known: tuple[Pixels, PixelMask] | None
    ) -> None:
        onlooker = self._onlookers[number]
        try:
            drawn = to_pixels(jax.device_get(self._draw(number, params, seed, labels, known)))
            onlooker.images.set_result(drawn if known is None else np.where(known[1] > 0.5, drawn, known[0]))
        except Exception as error:  # Raised again where the images are asked for.
            onlooker.images.set_exception(error)
        finally:
            onlooker.end()
            del self._onlookers[number], _UNDER_WAY[threading.current_thread()]

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
        onlooker = self._onlookers[int(number)]
        onlooker.start()
        return np.asarray(onlooker.is_there)

    def _tell(self, number: Array, t: Array, x_t: Array, x0: Array) -> None:
        self._onlookers[int(number)].see(t, x_t, x0)


_UNDER_WAY: dict[threading.Thread, Onlooker] = {}


@atexit.register
def _leave_all() -> None:
    """A script may end while it watches: its walks do, too, and before JAX does, on which they run."""
    for work, onlooker in [*_UNDER_WAY.items()]:
        onlooker.leave()
        work.join()


def watched(
    denoiser: Denoiser, number: Array | int, wanted: Callable[[Array], np.ndarray], tell: Callable[..., None]
) -> Denoiser:
    """The same Denoiser, which calls tell(number, t, x_t, x0) on the host, and answers with zeros once nobody wants it.

    number: of the onlooker, by which wanted(number) and tell know it, since both are called at run time from within
    code that is compiled once for all; the images of a call have one t.
    """

    def watching(x_t: Images, t: Steps) -> Prediction:
        answer = jax.eval_shape(denoiser, x_t, t)

        def tells(x_t: Images, t: Steps) -> Prediction:
            prediction = denoiser(x_t, t)
            io_callback(tell, None, number, t[0], x_t, prediction.x0, ordered=True)
            return prediction

        def nothing(x_t: Images, t: Steps) -> Prediction:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), answer)

        # An exception raised in a callback would end the work, too, but leaves other devices waiting, and a traceback.
        asked = io_callback(wanted, jax.ShapeDtypeStruct((), bool), number, ordered=True)
        return jax.lax.cond(asked, tells, nothing, x_t, t)

    return watching
