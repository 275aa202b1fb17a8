"""The smallest complete training: a few steps take milliseconds once compiled."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial

import jax
import numpy as np

from ddpm_jax.builders import build_learner, state_extras
from ddpm_jax.config import Config, config_of
from ddpm_jax.data.batches import Batches
from ddpm_jax.data.open import open_dataset
from ddpm_jax.runtime.devices import data_mesh, replicated, to_devices
from ddpm_jax.training.state import TrainState, init_state
from ddpm_jax.training.step import Learner, empty_metrics, train_step

CONFIG = config_of(
    {
        "data": {"source": "synthetic", "image_size": 8, "channels": 1, "batch_size": 8},
        # One stage without attention compiles in half the time.
        "model": {"channels": 8, "multipliers": [1], "blocks": 1, "attention_resolutions": [], "norm_groups": 4},
        "diffusion": {"steps": 100, "schedule": "cosine", "prediction": "v"},
        "optimizer": {"learning_rate": 1e-3},
        "train": {"steps": 6},
    }
)
DISCS = open_dataset(dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, classes=2)))


def config_with(**sections) -> Config:
    """CONFIG with some fields of some sections replaced."""
    replaced = {name: dataclasses.replace(getattr(CONFIG, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(CONFIG, **replaced)


@lru_cache
def learner_and_step(config: Config) -> tuple[Learner, TrainState, Callable]:
    """The learner, the first state and the compiled step of a configuration, made once."""
    learner = build_learner(config, data_mesh())
    start = partial(init_state, learner.unet, learner.optimizer, config.seed, config.image_shape)
    return (
        learner,
        on_the_mesh(jax.jit(partial(start, **state_extras(config)))()),
        jax.jit(partial(train_step, learner)),
    )


def on_the_mesh(tree):
    """The tree with the sharding that a step gives it; otherwise the next step would be compiled again."""
    return jax.device_put(tree, replicated(data_mesh()))


def loader(config: Config):
    batches = Batches(
        DISCS, np.arange(len(DISCS.images)), config.data.batch_size, seed=0, microbatches=config.train.accumulate
    )
    return lambda step: to_devices(data_mesh(), batches(step), axis=1)


def run(config: Config, steps: int = 4, state: TrainState | None = None, change=lambda batch, step: batch):
    """A few steps; returns the state, the metrics and the streaks of bad steps."""
    _, first, step = learner_and_step(config)
    state = first if state is None else state
    load, metrics, streaks = loader(config), on_the_mesh(empty_metrics()), []
    for i in range(int(state.step), int(state.step) + steps):
        state, metrics, streak = step(state, metrics, change(load(i), i))
        streaks.append(int(streak))
    return state, jax.device_get(metrics), streaks
