"""Speed of a recipe's network in training and sampling, against diffusers with the same weights."""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.builders import build_learner, build_pairs, build_unet
from ddpm_jax.commands.cost import matrix_rate, step_cost
from ddpm_jax.config import Config, checked, config_of, load_recipe, override
from ddpm_jax.data.batches import random_batch
from ddpm_jax.errors import UserError
from ddpm_jax.generation.draw import compile_sampler
from ddpm_jax.generation.requests import for_sampler
from ddpm_jax.interop.diffusers_folder import write_folder
from ddpm_jax.network.bind import apply_unet
from ddpm_jax.network.unet import init_params
from ddpm_jax.runtime.compilation import lower
from ddpm_jax.runtime.devices import check_divisible, data_mesh, replicated, to_devices
from ddpm_jax.training.state import first_state
from ddpm_jax.training.step import empty_metrics, trace_step
from scripts.benchmarks.peer import VARIANTS, Peer, comparison, in_turn, peak_memory, python_of, refuse_disagreement
from scripts.benchmarks.resident import forget_peak
from scripts.benchmarks.timing import median

SAMPLERS = ("ddpm", "ddim", "dpm_solver", "unipc", "heun")
AGREEMENT = {"float32": 1e-4, "bfloat16": 0.05}
"""Largest permitted difference of the networks' outputs, relative to the largest output."""


def chosen_config(flags: argparse.Namespace) -> Config:
    """The recipe with the flags' batch, type and overrides."""
    settings = [*flags.overrides, f"--config.data.batch_size={flags.batch}"]
    if flags.dtype:
        settings.append(f"--config.model.dtype={flags.dtype}")
    return config_of(override(load_recipe(flags.config), settings))


def chosen_mesh(flags: argparse.Namespace, microbatches: int = 1) -> Mesh:
    """All devices, or the first --devices of them."""
    devices = jax.devices()
    if flags.devices and flags.devices > len(devices):
        raise UserError(
            f"--devices={flags.devices} exceeds the {len(devices)} devices here ({devices[0].device_kind})."
        )
    mesh = data_mesh(devices[: flags.devices])
    check_divisible(mesh, flags.batch, microbatches, "--batch")
    return mesh


def random_params(config: Config) -> Any:
    """Parameters without zeros, as after some training: freshly initialised ones would predict zero for every input."""
    params = jax.jit(lambda: init_params(build_unet(config), jax.random.key(0), config.image_shape))()
    random = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + 0.02 * random.standard_normal(x.shape, np.float32), params)


def measure_training(flags: argparse.Namespace) -> dict[str, Any]:
    """Images/s of the training step: noise, loss, gradient, clipping, Adam, EMA."""
    config = chosen_config(flags)
    mesh = chosen_mesh(flags, config.train.accumulate)
    params = random_params(config)
    with against(config, params, flags, {"work": "train", "learning_rate": config.optimizer.learning_rate}) as peers:
        learner = build_learner(config, mesh)
        batch = to_devices(mesh, random_batch(config, flags.batch, config.train.accumulate), axis=1)
        state = jax.device_put(jax.jit(lambda p: first_state(p, learner.optimizer))(params), replicated(mesh))
        start = time.perf_counter()
        traced = trace_step(learner, state, batch)
        step = lower(traced).compile()
        compiling = time.perf_counter() - start
        cost = step_cost(traced, step)

        def work() -> None:
            nonlocal state
            for _ in range(flags.repeat):
                state, *_ = step(state, empty_metrics(), batch)
            jax.block_until_ready(state)

        own, theirs = in_turn(work, peers, flags.rounds)
        facts = comparison(flags.batch * flags.repeat, own, theirs, peers)
        rate = matrix_rate(config.model.dtype) * mesh.size
    ours = facts["ours"]
    ours["compile_seconds"] = compiling
    flops_per_second = cost.flops * ours["images_per_second"] / flags.batch
    ours |= {"gigaflop_per_step": cost.flops / 1e9, "gigaflop_per_second": flops_per_second / 1e9}
    ours["share_of_matrix_product"] = flops_per_second / rate
    if cost.memory:
        ours["compiled_memory_mebibytes"] = cost.memory / 2**20
    return {**describe(config, flags), **facts}


def measure_samplers(flags: argparse.Namespace) -> dict[str, Any]:
    """Images/s of each sampler with its default steps, or of the one that --config.sample.… configures.

    With a peer, images/s of DDIM and of the peer's DDIM pipeline.
    """
    config, mesh = chosen_config(flags), chosen_mesh(flags)
    configured = any(override.lstrip("-").startswith("config.sample.") for override in flags.overrides)
    if flags.peer and configured and config.sample.sampler != "ddim":
        raise UserError(f"--peer={flags.peer} samples by DDIM; got --config.sample.sampler={config.sample.sampler}.")
    params = random_params(config)
    facts, rates = describe(config, flags), {}

    def sampler(name: str) -> tuple[int, Callable[[], None]]:
        one = checked(dataclasses.replace(config, sample=for_sampler(config.sample, name)))
        sample, indices = compile_sampler(one, mesh), np.arange(flags.batch)

        def work() -> None:
            for _ in range(flags.repeat):
                jax.device_get(sample(params, 0, indices, None))

        work()
        return len(build_pairs(one)), work

    if flags.peer:
        steps, work = sampler("ddim")
        with against(config, params, flags, {"work": "sample", "batch": flags.batch, "steps": steps}) as peers:
            own, theirs = in_turn(work, peers, flags.rounds)
        return {**facts, "steps": steps, **comparison(flags.batch * flags.repeat, own, theirs, peers)}
    for name in (config.sample.sampler,) if configured else SAMPLERS:
        steps, work = sampler(name)
        forget_peak()  # That of compiling.
        rates[name] = flags.batch * flags.repeat / median(work, flags.rounds)
        facts[f"{name}_{steps}_images_per_second"] = rates[name]
    if configured:
        return {**facts, "peak_memory_mebibytes": peak_memory()}
    return {**facts, "ddim_over_ddpm": rates["ddim"] / rates["ddpm"]}


def describe(config: Config, flags: argparse.Namespace) -> dict[str, Any]:
    """The measurement and the machine."""
    device = jax.devices()[0]
    return {
        "recipe": flags.config,
        "batch": flags.batch,
        "dtype": config.model.dtype,
        "devices": f"{flags.devices or jax.device_count()} x {device.device_kind}, jax {jax.__version__}",
    }


@contextmanager
def against(config: Config, params: Any, flags: argparse.Namespace, work: dict[str, Any]) -> Iterator[dict[str, Peer]]:
    """The peer's variants, with the same weights and checked to give the same outputs; empty without --peer."""
    with tempfile.TemporaryDirectory(prefix="ddpm_jax-benchmark-") as folder, ExitStack() as stack:
        peers: dict[str, Peer] = {}
        if flags.peer:
            model, inputs = Path(folder, "model"), Path(folder, "inputs.npz")
            write_folder(config, jax.device_get(params), model, names=(), card="", grid=None)
            (pixels,) = random_batch(config, flags.batch).images
            x_t = np.random.default_rng(1).standard_normal((2, *pixels.shape[1:])).astype(np.float32)
            t = np.array([1, config.diffusion.steps])
            np.savez(inputs, pixels=pixels, x_t=x_t, t=t)
            own = np.asarray(jax.jit(partial(apply_unet, build_unet(config)))(params, x_t, t))
            spec = {"model": str(model), "inputs": str(inputs), "dtype": config.model.dtype, "repeat": flags.repeat}
            for number, variant in enumerate(flags.variants or VARIANTS):
                outputs = Path(folder, f"outputs-{number}.npy")
                spec |= {**work, "variant": variant, "outputs": str(outputs)}
                peers[variant] = stack.enter_context(Peer(python_of(flags), spec))
                refuse_disagreement(own, np.load(outputs), AGREEMENT[config.model.dtype], variant)
        yield peers
