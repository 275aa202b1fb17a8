"""The communication between devices in a compiled step: gradients are summed over all devices in float32, and under
FSDP parameters are gathered; besides these, only scalars are sent.
"""

import json
import math
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import pytest
from jax.sharding import Mesh
from jax.stages import Traced

from ddpm_jax.builders import build_learner
from ddpm_jax.commands.cost import count_flops, state_bytes
from ddpm_jax.runtime.compilation import lower
from ddpm_jax.runtime.devices import abstract_mesh, data_mesh, state_sharding
from ddpm_jax.training.state import TrainState, init_state
from ddpm_jax.training.step import trace_step
from tests.training.toy import config_with, loader

pytestmark = pytest.mark.xdist_group("collectives")  # Compiled once, for all tests.
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast|ragged-all-to-all"
MODEL = {
    "channels": 32,
    "multipliers": (1,),
    "attention_resolutions": (),
    "norm_groups": 4,
    "dtype": "bfloat16",
    # Otherwise two biases of a block are added to the same features, and XLA sums their gradient only once.
    "scale_shift": True,
}


def bytes_here(state: TrainState) -> int:
    """Bytes of a state on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))


def traced_step(mesh: Mesh, sharding: str) -> tuple[TrainState, Traced]:
    """A fresh state and the training step on a mesh."""
    config = config_with(train={"sharding": sharding}, model=MODEL)
    learner = build_learner(config, mesh)
    fresh = partial(init_state, learner.unet, learner.optimizer, config.seed, (8, 8, 1))
    state = jax.jit(fresh, out_shardings=state_sharding(mesh, jax.eval_shape(fresh), sharding))()
    return state, trace_step(learner, state, loader(config)(0))


def print_facts() -> None:
    """The sizes of the operands of each kind of collective on the devices of this process, and of the parameters."""
    facts = {}
    for sharding in ("replicated", "fsdp"):
        state, traced = traced_step(data_mesh(), sharding)
        lowered = lower(traced)
        program = lowered.compile().as_text()
        sent = {}
        for results, kind in re.findall(rf" = (.*?) ({KINDS})(?:-start)?\(", program):
            sizes = (math.prod(map(int, shape.split(","))) for shape in re.findall(r"\w+\[([\d,]+)\]", results))
            sent.setdefault(kind, []).extend(sizes)
        params = jax.tree.leaves(state.params)
        divided = [x.size for x in params if not x.sharding.is_fully_replicated]
        sizes = {"params": [x.size for x in params], "divided": divided, "state": bytes_here(state)}
        # The types before a CPU's compiler, which sums in float32 what is written in bfloat16.
        summed = re.findall(r"stablehlo\.all_reduce.*?: \(tensor<(?:\d+x)*(\w+)>\)", lowered.as_text(), re.DOTALL)
        facts[sharding] = {
            "sent": sent,
            **sizes,
            "summed": summed,
            "flops": count_flops(traced.jaxpr),
        }
    print(json.dumps(facts))


DEVICES = 4


@pytest.fixture(scope="module")
def facts() -> dict:
    """The facts of a process with four devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={DEVICES}"
    command = [sys.executable, "-c", f"from {__name__} import print_facts; print_facts()"]
    root, environment = Path(__file__).parents[2], {**os.environ, "XLA_FLAGS": flags}
    done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def test_with_replicated_parameters_only_gradients_are_summed(facts):
    found = facts["replicated"]
    assert not found["divided"] and set(found["sent"]) == {"all-reduce"}
    assert sorted(found["sent"]["all-reduce"]) == sorted(found["params"])


def test_under_fsdp_parameters_are_gathered_once_and_gradients_summed(facts):
    found = facts["fsdp"]
    assert found["divided"] and sorted(found["sent"].pop("all-gather")) == sorted(found["divided"])
    # The result of a reduce-scatter is a quarter of the sum; CPUs sum everything and keep a part.
    scattered = [DEVICES * size for size in found["sent"].pop("reduce-scatter", [])]
    assert sorted(found["sent"].pop("all-reduce") + scattered) == sorted(found["params"])
    assert not found["sent"]


@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_the_planned_size_of_a_state_is_its_size_on_each_device(facts, sharding):
    config = config_with(model=MODEL)
    learner = build_learner(config, data_mesh())
    state = jax.eval_shape(partial(init_state, learner.unet, learner.optimizer, config.seed, (8, 8, 1)))
    assert state_bytes(state, abstract_mesh(DEVICES), sharding) == facts[sharding]["state"]


@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_gradients_of_bfloat16_layers_are_summed_in_float32(facts, sharding):
    assert facts[sharding]["summed"] == ["f32"] * len(facts[sharding]["params"])


def test_the_counted_arithmetic_does_not_depend_on_the_devices(facts):
    _, traced = traced_step(data_mesh(), "replicated")
    for sharding in ("replicated", "fsdp"):
        assert facts[sharding]["flops"] == count_flops(traced.jaxpr)
