"""The loop that all samplers share: one `lax.scan` from x_T to x_0 that keeps no more than the frames to be shown."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.shapes import Frames, Images


class Samples(NamedTuple):
    """images: x_0 as the sampler left it, about [-1, 1]; frames: of the watched images, from x_T to x_0."""

    images: Images
    frames: Frames


class FrameSpec(NamedTuple):
    """What to keep of a trajectory: this many evenly spaced frames of the first `images` images."""

    frames: int = 0
    images: int = 0
    predicted: bool = False
    """Frames show the x_0 that each step predicted instead of the x_s that it made."""


NO_FRAMES = FrameSpec()


def iterate(
    step: Callable[[Images, Any], tuple[Images, Images]], x_T: Images, rows: Any, watch: FrameSpec = NO_FRAMES
) -> Samples:
    """Folds x_s, x_0 = step(x_t, row) over the rows (a pytree of arrays [steps, ...], the noisiest first), from x_T.

    x_0: what the step predicted, only to be shown.
    """
    return iterate_with_memory(lambda x, memory, row: (*step(x, row), memory), x_T, (), rows, watch)


def iterate_with_memory(
    step: Callable[[Images, Any, Any], tuple[Images, Images, Any]],
    x_T: Images,
    memory: Any,
    rows: Any,
    watch: FrameSpec = NO_FRAMES,
) -> Samples:
    """`walk` for solvers that look back: step(x_t, memory, row) -> (x_s, x_0, memory), with any pytree as memory.

    With more frames than steps + 1, frames repeat. Memory does not grow with the number of steps.
    """
    steps = len(jax.tree.leaves(rows)[0])
    shown_after = np.round(np.linspace(0, steps, max(watch.frames, 1))).astype(int)
    distinct = np.unique(shown_after)
    # Row i writes the frame that is shown after i + 1 steps; the slot past the end means "not shown" and is dropped.
    slots = np.full(steps + 1, len(distinct))
    slots[distinct] = np.arange(len(distinct))
    x_T = jnp.asarray(x_T)
    frames = jnp.zeros((len(distinct), min(watch.images, x_T.shape[0]), *x_T.shape[1:]), x_T.dtype)
    frames = frames.at[slots[0]].set(x_T[: watch.images], mode="drop")

    def body(carry: tuple[jax.Array, Any, jax.Array], row: tuple[Any, jax.Array]) -> tuple[Any, None]:
        x, memory, frames = carry
        x, x0, memory = step(x, memory, row[0])
        shown = x0 if watch.predicted else x
        return (x, memory, frames.at[row[1]].set(shown[: watch.images], mode="drop")), None

    (images, _, frames), _ = jax.lax.scan(body, (x_T, memory, frames), (rows, jnp.asarray(slots[1:])))
    return Samples(images, frames[np.searchsorted(distinct, shown_after)][: watch.frames])
