"""One training step, as a pure function: (state, metrics, batch) -> (state, metrics, bad streak).

images -> [-1, 1] -> augmentation, if any -> a random t -> loss of the U-Net, given the label and the condition, if any
 -> gradients -> optimizer -> EMA. `train.py` compiles it with the state donated. The metrics are running sums on
the device, so that reading them never delays a step.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import optax
from clu.metrics import Average
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Int, Key, PyTree

from ddpm_jax.config.sections import Optimizer
from ddpm_jax.data.augment import augment
from ddpm_jax.data.batches import Batch
from ddpm_jax.diffusion.conditions import Condition, draw_dropped, dropped, training_input
from ddpm_jax.diffusion.objective import Network, quarter_of
from ddpm_jax.diffusion.pixels import from_pixels
from ddpm_jax.diffusion.randomness import Purpose, draw_normal, purpose_key
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.diffusion.time_sampling import (
    Density,
    density_by_loss,
    draw_steps,
    importance_weights,
    remember,
)
from ddpm_jax.network.bind import Conditioning, apply_unet, drop_labels, label_vectors
from ddpm_jax.network.unet import UNet
from ddpm_jax.runtime.compilation import DETERMINISTIC, jit, lower
from ddpm_jax.runtime.devices import platform_of, replicated
from ddpm_jax.sampling.noise import image_keys
from ddpm_jax.shapes import ImageKeys, Images, Labels, OneKey, Output, PerImage, Pixels, Steps
from ddpm_jax.training.ema import update_ema
from ddpm_jax.training.optimizer import LearningRate
from ddpm_jax.training.power_ema import update_power_emas
from ddpm_jax.training.state import TrainState

Metrics = dict[str, Average]
Loss = Callable[[Network, Images, Steps, Images, int | Int[Array, ""]], PerImage]
"""(network, x0, t, noise, training step) -> the loss of each image."""
TrainStep = Callable[[TrainState, Metrics, Batch], tuple[TrainState, Metrics, Int[Array, ""]]]
QUARTERS = ("1st", "2nd", "3rd", "4th")
METRICS = ("loss", *(f"loss_t_{quarter}_quarter" for quarter in QUARTERS), "gradient_norm", "learning_rate")


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """The parts of a training step that are constant throughout a run."""

    unet: UNet
    schedule: Schedule
    loss: Loss
    steps: int
    """Training steps of the run."""
    t_density: Density | None
    """Density of t = 1..T; None for uniform t, and for those by recent loss."""
    t_unbiased: bool
    """Whether weights make up for the density of t."""
    optimizer: optax.GradientTransformation
    learning_rate: LearningRate
    ema_config: Optimizer
    mesh: Mesh
    seed: int
    augment: float
    condition: Condition | None
    label_dropout: float
    condition_dropout: float
    deterministic: bool
    """Whether the compiled step gives the same bits in every process, also on a GPU."""


def empty_metrics() -> Metrics:
    """Means over no values yet."""
    return {name: Average.empty() for name in METRICS}


def metrics_to_json(metrics: Metrics) -> dict[str, list[float | int]]:
    """Sum and count of each metric; waits for the device."""
    return {name: [float(mean.total), int(mean.count)] for name, mean in jax.device_get(metrics).items()}


def metrics_from_json(saved: Mapping[str, Sequence[float | int]]) -> Metrics:
    """The metrics that `metrics_to_json` wrote, exactly; empty means for those that are missing."""
    return {name: _sum_and_count(*map(jnp.asarray, saved.get(name, (0.0, 0)))) for name in METRICS}


def train_step(
    learner: Learner, state: TrainState, metrics: Metrics, batch: Batch
) -> tuple[TrainState, Metrics, Int[Array, ""]]:
    """The state after one batch; its microbatches are computed one after the other, and their gradients averaged.

    A batch whose loss or gradient is not finite changes only the counters.
    """
    density = density_of_t(learner, state)
    gradient, loss, t = _accumulated_gradient(learner, state.params, batch, state.step, density)
    norm = optax.tree.norm(gradient)
    # Without the barriers XLA computes `finite` anew for each array, and the new parameters anew for their EMA.
    finite = jax.lax.optimization_barrier(jnp.isfinite(norm) & jnp.all(jnp.isfinite(loss)))

    def keep(new: PyTree, old: PyTree) -> PyTree:
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

    updates, opt_state = learner.optimizer.update(gradient, state.opt_state, state.params)
    params = jax.lax.optimization_barrier(keep(optax.apply_updates(state.params, updates), state.params))
    done = state.step - state.skipped
    ema = update_ema(learner.ema_config, state.ema, params, done)
    power_emas = update_power_emas(learner.ema_config.power_widths, state.power_emas, params, done + 1)
    history = remember(state.loss_history, t, loss) if state.loss_history else ()
    rate = learner.learning_rate(done)

    bad = 1 - finite.astype(jnp.int32)
    streak = bad * (state.bad_streak + 1)
    new_state = dataclasses.replace(
        state,
        step=state.step + 1,
        skipped=state.skipped + bad,
        bad_streak=streak,
        params=params,
        ema=keep(ema, state.ema),
        opt_state=keep(opt_state, state.opt_state),
        loss_history=keep(history, state.loss_history),
        power_emas=keep(power_emas, state.power_emas),
    )
    quarter = quarter_of(learner.schedule, t)
    by_quarter = (_mean(loss, quarter == q) for q in range(len(QUARTERS)))
    means = (_mean(_weighted(learner, loss, t, density)), *by_quarter, _mean(norm), _mean(rate))
    merged = {name: metrics[name].merge(mean) for name, mean in zip(METRICS, means, strict=True)}
    return new_state, keep(merged, metrics), streak


def density_of_t(learner: Learner, state: TrainState) -> Density | None:
    """The density of t = 1..T in this step; None for uniform t."""
    if state.loss_history:
        return density_by_loss(state.loss_history)
    return learner.t_density


def _weighted(learner: Learner, loss: PerImage, t: Steps, density: Density | None) -> PerImage:
    return loss if density is None or not learner.t_unbiased else importance_weights(density, t) * loss


def _accumulated_gradient(
    learner: Learner, params: PyTree, batch: Batch, step: Int[Array, ""], density: Density | None
) -> tuple[PyTree, PerImage, Steps]:
    """Mean gradient over the microbatches of a batch, with the loss and t of each image."""
    key = jax.random.fold_in(purpose_key(learner.seed, Purpose.STEP), step)
    # Under FSDP this gathers the parameters once for all microbatches; otherwise it has no effect.
    params = jax.lax.with_sharding_constraint(params, replicated(learner.mesh))
    differentiate = jax.grad(_microbatch_loss, argnums=1, has_aux=True)
    microbatches = batch.images.shape[0]

    def add(
        total: PyTree, microbatch: tuple[Batch, Array, Array | None, Array | None]
    ) -> tuple[PyTree, tuple[PerImage, Steps]]:
        gradient, aux = differentiate(learner, params, *microbatch, step, density)
        return jax.tree.map(jnp.add, total, gradient), aux

    zeros = jax.tree.map(jnp.zeros_like, params)
    shape = batch.images.shape[:2]
    augment_keys = step_keys(learner, Purpose.AUGMENT, step, shape) if learner.augment else None
    condition_keys = step_keys(learner, Purpose.CONDITION, step, shape) if learner.condition else None
    inputs = (batch, jax.random.split(key, microbatches), augment_keys, condition_keys)
    if microbatches == 1:
        gradient, (loss, t) = differentiate(learner, params, *jax.tree.map(lambda x: x[0], inputs), step, density)
        return gradient, loss, t
    # Inside a loop, XLA on CPU compiles the weight gradient of a convolution to naive code, a hundred times slower:
    # there the loop over microbatches is unrolled.
    unrolled, rolled = (partial(jax.lax.scan, add, unroll=unroll) for unroll in (True, False))
    total, (loss, t) = jax.lax.platform_dependent(zeros, inputs, cpu=unrolled, default=rolled)
    return jax.tree.map(lambda g: g / microbatches, total), loss.reshape(-1), t.reshape(-1)


def step_keys(
    learner: Learner, purpose: Purpose, step: int | Int[Array, ""], shape: tuple[int, ...]
) -> Key[Array, "microbatches rows"]:
    """A key for each image of a step, by its index in the whole batch, whatever its microbatches and devices.

    shape: of the batch, (microbatches, rows).
    """
    key = jax.random.fold_in(purpose_key(learner.seed, purpose), step)
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(math.prod(shape))).reshape(shape)


def _microbatch_loss(
    learner: Learner,
    params: PyTree,
    batch: Batch,
    key: OneKey,
    augment_keys: ImageKeys | None,
    condition_keys: ImageKeys | None,
    step: Int[Array, ""],
    density: Density | None,
) -> tuple[Array, tuple[PerImage, Steps]]:
    time_key, noise_key, dropout_key, label_key = jax.random.split(key, 4)
    x0, augmentation, condition = from_pixels(batch.images), None, None
    if augment_keys is not None:
        x0, augmentation = augment(x0, augment_keys, learner.augment)
    if density is None:
        t = jax.random.randint(time_key, x0.shape[:1], 1, learner.schedule.steps + 1)
    else:
        t = draw_steps(time_key, density, len(x0))
    noise = draw_normal(noise_key, x0.shape)
    labels = label_vectors(batch.labels, learner.unet.labels)
    labels = drop_labels(labels, jax.random.bernoulli(label_key, learner.label_dropout, t.shape))
    if learner.condition and condition_keys is not None:
        drop = draw_dropped(condition_keys, learner.condition_dropout)
        condition = dropped(training_input(learner.condition, learner.schedule, x0, condition_keys), drop)
        labels = drop_labels(labels, drop)
    given = Conditioning(labels, condition, augmentation)
    loss = _losses(learner, params, x0, given, t, noise, step, jax.random.split(dropout_key, t.shape[0]))
    return jnp.mean(_weighted(learner, loss, t, density)), (loss, t)


def _losses(
    learner: Learner,
    params: PyTree,
    x0: Images,
    given: Conditioning,
    t: Steps,
    noise: Images,
    step: int | Int[Array, ""],
    dropout_keys: ImageKeys | None = None,
) -> PerImage:
    def network(x_t: Images, t: Steps) -> Output:
        return _apply_on_each_device(learner, params, x_t, t, given, dropout_keys)

    return learner.loss(network, x0, t, noise, step)


def _apply_on_each_device(
    learner: Learner, params: PyTree, x_t: Images, t: Steps, given: Conditioning, dropout_keys: ImageKeys | None
) -> Output:
    """The network on each device's images, so that its gradients are summed over devices in the parameters' float32.

    Left to XLA, a gradient is summed where a layer computes it, in the layer's dtype (jax issue 27496).
    """

    def on_device(params: PyTree, x_t: Images, t: Steps, given: Conditioning, keys: ImageKeys | None) -> Output:
        return apply_unet(learner.unet, params, x_t, t, given, dropout_keys=keys)

    divided = PartitionSpec("data")
    placed = (PartitionSpec(), *(divided for _ in range(4)))
    # Without check_vma, the transpose of an argument that is the same on all devices is the sum over them.
    apply = jax.shard_map(on_device, mesh=learner.mesh, in_specs=placed, out_specs=divided, check_vma=False)
    return apply(params, x_t, t, given, dropout_keys)


def _mean(values: Array, mask: Array | bool = True) -> Average:
    """The mean of the values that the mask selects."""
    selected = jnp.broadcast_to(mask, values.shape)
    return _sum_and_count(jnp.sum(jnp.where(selected, values, 0.0)), jnp.sum(selected, dtype=jnp.int32))


def _sum_and_count(total: Array, count: Array) -> Average:
    # pyright does not know the fields of clu's dataclasses.
    return Average(total=total.astype(jnp.float32), count=count.astype(jnp.int32))  # pyright: ignore


def validation_losses(
    learner: Learner, params: PyTree, images: Pixels, labels: Labels, index: Int[Array, "batch"], count: int
) -> PerImage:
    """The loss of held-out images, each with fixed noise, t and condition, independent of the step and the batch.

    A loss that changes in the course of training is measured as at its end.
    index: the index of each image among the `count` held-out ones; their t are spread evenly over 1..T.
    """
    x0 = from_pixels(images)
    t = 1 + index * learner.schedule.steps // count
    keys = image_keys(learner.seed, index, Purpose.VALIDATION)
    noise = jax.vmap(lambda key: draw_normal(key, x0.shape[1:]))(keys)
    condition = None
    if learner.condition:
        keys = image_keys(learner.seed, index, Purpose.HELD_OUT_CONDITION)
        condition = training_input(learner.condition, learner.schedule, x0, keys)
    given = Conditioning(label_vectors(labels, learner.unet.labels), condition)
    return _losses(learner, params, x0, given, t, noise, learner.steps)


def compiler_options(mesh: Mesh | AbstractMesh, deterministic: bool) -> dict[str, bool]:
    """XLA's options for the training step; CPUs and TPUs compute the same bits without any."""
    return DETERMINISTIC if deterministic and platform_of(mesh) == "gpu" else {}


def trace_step(learner: Learner, state: TrainState, batch: Batch) -> jax.stages.Traced:
    """Traces the training step for these arrays (or shapes); the state is donated and keeps its sharding."""
    layout = jax.tree.map(lambda x: x.sharding, state)
    shardings, options = (layout, None, None), compiler_options(learner.mesh, learner.deterministic)
    jitted = jit(partial(train_step, learner), donate_argnums=0, out_shardings=shardings, compiler_options=options)
    return jitted.trace(state, empty_metrics(), batch)


def lower_step(learner: Learner, state: TrainState, batch: Batch) -> jax.stages.Lowered:
    """Lowers the training step."""
    return lower(trace_step(learner, state, batch))
