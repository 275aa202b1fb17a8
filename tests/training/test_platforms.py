"""A training step lowered for a GPU or TPU, on a machine that has none, is the program of that platform."""

import dataclasses
import re
from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from ddpm_jax.builders import build_learner
from ddpm_jax.commands.one_device import OneDevice
from ddpm_jax.config import Config, config_of, load_recipe
from ddpm_jax.data.batches import Batch
from ddpm_jax.runtime.compilation import DETERMINISTIC, jit
from ddpm_jax.runtime.devices import data_mesh, platform_of
from ddpm_jax.training import step
from ddpm_jax.training.state import init_state
from ddpm_jax.training.step import compiler_options, empty_metrics, train_step
from tests.end_to_end.commands import ROOT
from tests.training.toy import config_with

RECIPES = sorted((ROOT / "configs").glob("*.py"))
TYPE = r"tensor<[\dx]+x(\w+)>"
SHORT = {"float32": "f32", "bfloat16": "bf16"}
WINOGRAD = r"stablehlo\.dot_general [^\n]*batching_dims = \[0\] x \[0\][^\n]*\(tensor<(?:16|36)x"
"""Products of transformed tiles; attention's have two batch dimensions."""


def lowered_step(config: Config, *platforms: str) -> list[str]:
    """The texts of the programs of a step, which is traced once."""
    learner, data, microbatches = build_learner(config, data_mesh()), config.data, config.train.accumulate
    fresh = partial(init_state, learner.unet, learner.optimizer, 0, config.image_shape)
    rows = (microbatches, data.batch_size // microbatches)
    attributes = config.model.attributes
    labels = jax.ShapeDtypeStruct((*rows, attributes), np.uint8) if attributes else np.zeros(rows, np.int32)
    batch = Batch(jax.ShapeDtypeStruct((*rows, *config.image_shape), np.uint8), labels)
    jitted, arguments = jit(partial(train_step, learner)), (jax.eval_shape(fresh), empty_metrics(), batch)
    return [jitted.lower(*arguments, platform=platform).as_text() for platform in platforms]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_step_of_a_recipe_is_lowered_for_accelerators(path):
    config = config_of(load_recipe(str(path)))
    # Two of its stages, for speed.
    shallow = {"multipliers": config.model.multipliers[:2], "blocks": 1, "attention_resolutions": ()}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **shallow))
    for text in lowered_step(config, "cuda", "tpu"):
        types = re.findall(rf"stablehlo\.convolution\(.*: \({TYPE}, {TYPE}\) -> {TYPE}", text)
        assert len(types) == text.count("stablehlo.convolution") > 20
        assert {kind for kinds in types for kind in kinds} == {SHORT[config.model.dtype]}
        assert not re.search(WINOGRAD, text)
        assert text.count("stablehlo.while") == int(config.train.accumulate > 1)


def test_on_a_cpu_the_same_step_has_winograds_products_in_an_unrolled_loop():
    model = {"channels": 64, "multipliers": (1,), "attention_resolutions": (), "norm_groups": 4}
    loops = []
    for microbatches in (1, 2):
        config = config_with(model=model, train={"accumulate": microbatches}, data={"batch_size": 16 * microbatches})
        cpu, gpu = lowered_step(config, "cpu", "cuda")
        assert re.search(WINOGRAD, cpu) and not re.search(WINOGRAD, gpu)
        loops.append([text.count("stablehlo.while") for text in (cpu, gpu)])
    assert [after - before for before, after in zip(*loops, strict=True)] == [0, 1]


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_kernels_are_asked_for_on_gpus_alone(platform, deterministic):
    mesh = AbstractMesh((2,), ("data",), abstract_device=AbstractDevice("any", None, platform))
    assert compiler_options(mesh, deterministic) == (DETERMINISTIC if deterministic and platform == "gpu" else {})


def test_the_step_is_compiled_with_these_options(monkeypatch):
    compiled_with = []

    def recorded(function, *, compiler_options, **options):
        compiled_with.append(compiler_options)
        return jit(function, **options)

    monkeypatch.setattr(step, "jit", recorded)
    monkeypatch.setattr(step, "platform_of", lambda mesh: "gpu")
    one = OneDevice(config_with(train={"deterministic": True}))
    step.trace_step(one.learner, one.shapes, one.batch(2))
    assert compiled_with == [DETERMINISTIC]


def test_the_platform_of_a_mesh_is_that_of_its_devices():
    assert platform_of(data_mesh()) == jax.devices()[0].platform == "cpu"


def test_xla_knows_the_options():
    assert jit(lambda x: x + 1, compiler_options=DETERMINISTIC)(1) == 2
