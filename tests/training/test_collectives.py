"""The communication between devices in a compiled step: gradients are summed over all devices, and under FSDP
parameters are gathered; besides these, only scalars are sent.
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

from ddpm_jax.builders import build_learner
from ddpm_jax.commands.cost import state_bytes, step_cost
from ddpm_jax.runtime.devices import abstract_mesh, data_mesh, state_sharding
from ddpm_jax.training.state import TrainState, init_state
from ddpm_jax.training.step import lower_step
from tests.training.toy import config_with, loader

pytestmark = pytest.mark.xdist_group("collectives")  # Compiled once, for all tests.
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast|ragged-all-to-all"
MODEL = {"channels": 32, "multipliers": (1,), "attention_resolutions": (), "norm_groups": 4}


def bytes_here(state: TrainState) -> int:
    """Bytes of a state on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))


def print_facts() -> None:
    """The sizes of the operands of each kind of collective on the devices of this process, and of the parameters."""
    facts = {}
    for sharding in ("replicated", "fsdp"):
        config, mesh = config_with(train={"sharding": sharding}, model=MODEL), data_mesh()
        learner = build_learner(config, mesh)
        fresh = partial(init_state, learner.unet, learner.optimizer, config.seed, 8, 1)
        state = jax.jit(fresh, out_shardings=state_sharding(mesh, jax.eval_shape(fresh), sharding))()
        lowered = lower_step(learner, state, loader(config)(0))
        compiled = lowered.compile()
        program = compiled.as_text()
        sent = {}
        for results, kind in re.findall(rf" = (.*?) ({KINDS})(?:-start)?\(", program):
            sizes = (math.prod(map(int, shape.split(","))) for shape in re.findall(r"\w+\[([\d,]+)\]", results))
            sent.setdefault(kind, []).extend(sizes)
        params = jax.tree.leaves(state.params)
        divided = [x.size for x in params if not x.sharding.is_fully_replicated]
        sizes = {"params": [x.size for x in params], "divided": divided, "state": bytes_here(state)}
        cost = step_cost(lowered, compiled, microbatches=1, devices=mesh.size)
        counted = {"flops": cost.flops, "as_written": lowered.cost_analysis()["flops"]}
        facts[sharding] = {"sent": sent, **sizes, **counted}
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
    state = jax.eval_shape(partial(init_state, learner.unet, learner.optimizer, config.seed, 8, 1))
    assert state_bytes(state, abstract_mesh(DEVICES), sharding) == facts[sharding]["state"]


@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_the_counted_arithmetic_is_that_of_all_devices(facts, sharding):
    # Each device updates all parameters, or its share.
    assert facts[sharding]["flops"] == pytest.approx(facts[sharding]["as_written"], rel=0.1)
