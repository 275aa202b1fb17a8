"""The loops that carry a sampler from x_T to x_0. Every sampler takes a loop as an argument and defines only its step.

    step(x_t, memory, coefficients) -> (x_s, predicted x_0, memory)

scan_loop     all steps in one `lax.scan`, which keeps only the requested frames
first_state   the state (x_T, memory) before the first step
step_loop     one step from a given state, so that Python can drive the sampler and stop at any step
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ddpm_jax.shapes import Frames, Images

Step = Callable[[Images, Any, Any], tuple[Images, Images, Any]]
Loop = Callable[[Step, Images, Any, Any], Any]
"""(step, x_T, memory, coefficients): memory is any pytree, coefficients one of arrays [steps, ...], noisiest first."""


class Samples(NamedTuple):
    """images: x_0 as the sampler returns it, about [-1, 1]; frames: snapshots of the first images, from x_T to x_0."""

    images: Images
    frames: Frames


class FrameSpec(NamedTuple):
    """Number of evenly spaced frames of a trajectory to keep, of the first `images` images."""

    frames: int = 0
    images: int = 0
    predicted: bool = False
    """Frames show the x_0 predicted in each step instead of x_s."""


NO_FRAMES = FrameSpec()


def scan_loop(spec: FrameSpec = NO_FRAMES) -> Loop:
    """A loop that returns Samples. With more frames than steps + 1, frames repeat."""

    def loop(step: Step, x_T: Images, memory: Any, coefficients: Any) -> Samples:
        steps = len(jax.tree.leaves(coefficients)[0])
        shown_after = np.round(np.linspace(0, steps, max(spec.frames, 1))).astype(int)
        distinct = np.unique(shown_after)
        # Step i writes the frame shown after i + 1 steps; the slot past the end means "not shown".
        slots = np.full(steps + 1, len(distinct))
        slots[distinct] = np.arange(len(distinct))
        x_T = jnp.asarray(x_T)
        frames = jnp.zeros((len(distinct), min(spec.images, x_T.shape[0]), *x_T.shape[1:]), x_T.dtype)
        frames = frames.at[slots[0]].set(x_T[: spec.images], mode="drop")

        def body(carry: tuple[jax.Array, Any, jax.Array], inputs: tuple[Any, jax.Array]) -> tuple[Any, None]:
            x, memory, frames = carry
            c, slot = inputs
            x, x0, memory = step(x, memory, c)
            shown = x0 if spec.predicted else x
            return (x, memory, frames.at[slot].set(shown[: spec.images], mode="drop")), None

        (images, _, frames), _ = jax.lax.scan(body, (x_T, memory, frames), (coefficients, jnp.asarray(slots[1:])))
        return Samples(images, frames[np.searchsorted(distinct, shown_after)][: spec.frames])

    return loop


SCAN = scan_loop()
"""The loop that keeps no frames."""


def float32(*tables: np.ndarray) -> tuple[Array, ...]:
    """Tables of one value per step, as float32 coefficients for a loop."""
    return tuple(jnp.asarray(table, jnp.float32) for table in tables)


def first_state(step: Step, x_T: Images, memory: Any, coefficients: Any) -> tuple[Images, Any]:
    """The state before the first step."""
    return jnp.asarray(x_T), memory


def step_loop(state: tuple[Images, Any], number: Int[Array, ""] | int) -> Loop:
    """A loop that takes only the step of this number: returns the state after it and the predicted x_0."""

    def loop(step: Step, x_T: Images, memory: Any, coefficients: Any) -> tuple[tuple[Images, Any], Images]:
        x, x0, memory = step(*state, jax.tree.map(lambda column: jnp.asarray(column)[number], coefficients))
        return (x, memory), x0

    return loop
