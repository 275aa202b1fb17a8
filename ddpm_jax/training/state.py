"""TrainState: everything that training changes, and that a checkpoint holds."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, PyTree

from ddpm_jax.diffusion.randomness import Purpose, purpose_key
from ddpm_jax.network.unet import UNet, init_params
from ddpm_jax.runtime.compilation import jit
from ddpm_jax.training.ema import start_ema
from ddpm_jax.training.power_ema import start_power_emas


@struct.dataclass
class TrainState:
    """params, ema and opt_state are trees of float32; the counters are int32 scalars.

    All fields are typed as trees, since JAX also builds states with shapes or shardings as leaves.
    """

    step: PyTree
    """Number of batches so far."""
    skipped: PyTree
    """Number of batches that were skipped because their loss or gradient was not finite."""
    bad_streak: PyTree
    """Number of skipped batches in a row, up to now."""
    params: PyTree
    ema: PyTree
    opt_state: PyTree
    power_emas: PyTree = ()
    """Power-function EMAs of the parameters, one for each of optimizer.ema_widths; empty without."""
    loss_history: PyTree = ()
    """The latest losses at each t, for train.t_sampling="loss"; empty without."""


def init_state(
    unet: UNet, optimizer: optax.GradientTransformation, seed: int, image_shape: tuple[int, int, int], **extras: Any
) -> TrainState:
    """The state before the first step; image_shape: height, width and channels; extras: arguments of `first_state`."""
    return first_state(init_params(unet, purpose_key(seed, Purpose.INIT), image_shape), optimizer, **extras)


def first_state(
    params: PyTree,
    optimizer: optax.GradientTransformation,
    ema: PyTree | None = None,
    power_emas: int = 0,
    loss_history: PyTree = (),
) -> TrainState:
    """The state before the first step, from these parameters.

    ema: their EMA, by default a copy; power_emas: the number of power-function EMAs.
    """
    zeros = [jnp.zeros((), jnp.int32) for _ in range(3)]  # Shared buffers cannot be donated.
    ema = start_ema(params) if ema is None else ema
    return TrainState(
        *zeros,
        params=params,
        ema=ema,
        opt_state=optimizer.init(params),
        power_emas=start_power_emas(params, power_emas),
        loss_history=loss_history,
    )


def is_finite(state: TrainState) -> bool:
    """Whether all parameters, their EMAs and optimizer moments are finite; waits for the device."""
    return bool(_all_finite((state.params, state.ema, state.opt_state, state.power_emas)))


@jit
def _all_finite(tree: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
