"""--plan.target: the training step that libtpu compiles, in a process that finds libtpu in .venv-tpu (.ci/run)."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ddpm_jax.commands.target import CHIPS, Compilation, estimate, most_images, prepare_libtpu
from ddpm_jax.errors import UserError

pytestmark = pytest.mark.xdist_group("target")  # They share compiled steps.
ROOT = Path(__file__).parents[2]
LIBTPU = ROOT / ".venv-tpu"
SMALL = [
    "--config=configs/digits.py:smoke",
    "--config.model.dtype=bfloat16",
    "--config.model.multipliers=(1,)",
    "--config.model.attention_resolutions=()",
]
needs_libtpu = pytest.mark.skipif(not LIBTPU.exists(), reason="libtpu is not installed in .venv-tpu; .ci/run does that")

PROGRAM = """
import json, sys
import jax
from ddpm_jax.commands.target import TargetStep, prepare_libtpu, target_mesh
from ddpm_jax.config import config_of, load_recipe, override
prepare_libtpu("v5e:2x2")
found = {}
for sharding in ("replicated", "fsdp"):
    flags = ["--config.model.dtype=bfloat16", f"--config.train.sharding={sharding}"]
    step = TargetStep(config_of(override(load_recipe("configs/digits.py:smoke"), flags)), target_mesh("v5e:2x2"))
    compiled = step.compile(2, 1).compiled
    found[sharding] = {"program": compiled.as_text(), "state": len(jax.tree.leaves(step.state))}
json.dump(found, sys.stdout)
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which finds libtpu."""
    environment = {**os.environ, "PYTHONPATH": str(LIBTPU)}
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def programs() -> dict[str, dict]:
    """The compiled steps and the number of arrays of their states, by sharding."""
    found = run("-c", PROGRAM)
    assert not found.returncode, found.stderr
    return json.loads(found.stdout)


def collectives(program: str) -> dict[str, list[str]]:
    """The types of the arrays that each kind of collective moves."""
    moved: dict[str, list[str]] = {}
    for types, kind in re.findall(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all)(?:-start)?\(", program):
        moved.setdefault(kind, []).extend(re.findall(r"([a-z]+\d+)\[(?=\d)", types))
    return moved


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_the_state_is_donated_and_only_gradients_and_parameters_are_sent(programs, sharding):
    program, arrays = programs[sharding]["program"], programs[sharding]["state"]
    aliases = program.split("input_output_alias=", 1)[1].split("entry_computation_layout", 1)[0]
    assert aliases.count("alias)") >= arrays
    moved = collectives(program)
    assert set(moved) == ({"all-reduce"} if sharding == "replicated" else {"all-reduce", "all-gather"})
    # Besides the gradients, a few sums of metrics and of the norm.
    assert len(moved["all-reduce"]) < 2 * arrays
    assert "bf16" not in moved["all-reduce"] and set(moved.get("all-gather", ["bf16"])) == {"bf16"}


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_convolutions_and_activations_are_in_bfloat16(programs, sharding):
    lines = [line for line in programs[sharding]["program"].splitlines() if " convolution(" in line]
    wide = [line for line in lines if re.search(r"= f32\[.* convolution\(", line)]
    # Attention's weights and their gradients, which are products of matrices, are summed in float32.
    assert len(wide) < len(lines) / 4 and all("dot_general" in line for line in wide)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_nothing_is_transposed_on_the_way(programs, sharding):
    """Layouts are chosen so that convolutions and products read what others wrote; vectors have but one."""
    transposed = re.findall(r"= \w+\[([\d,]*)\]\S* transpose\(", programs[sharding]["program"])
    assert transposed and not [shape for shape in transposed if "," in shape]


@needs_libtpu
@pytest.mark.slow
def test_a_plan_for_tpus_tells_memory_and_a_bound_of_the_speed():
    found = run("main.py", "--mode=plan", *SMALL, "--plan.target=v5e:2x2")
    lines = dict(line.split(maxsplit=1) for line in found.stdout.splitlines())
    assert lines["Devices"].startswith("4, v5e:2x2")
    assert re.match(r"yes: about [\d,]+ at once in nine tenths of the 16 GiB of a v5e", lines["Fits"])
    assert re.match(r"at most [\d,]+ images/s", lines["Speed"])
    refused = run("main.py", "--mode=plan", *SMALL, "--plan.target=v5e:3x5")
    assert refused.returncode == 2 and "is not divisible by" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("target", ["v5e", "v9:2x2", "v5e:0x2", "v5e:-1x2", "v5e:2", "v5e:2x2x2x2", "v5e:2x2 "])
def test_what_is_not_a_slice_is_refused(target):
    with pytest.raises(UserError, match="is not a slice of TPUs; expected the chips"):
        prepare_libtpu(target)


def test_the_most_images_lie_on_the_line_through_two_steps():
    chip = CHIPS["v5e"]._replace(memory=1.0)
    unit = 0.9 * 2**30 / 100
    asked, half = (Compilation(images, unit * (20 + images), None) for images in (8, 4))
    assert most_images(asked, half, chip) == 80
    assert most_images(asked, half, chip._replace(memory=0.1)) == 8


def test_a_loop_over_microbatches_counts_for_each_of_them():
    sizes = SimpleNamespace(argument_size_in_bytes=3e9, output_size_in_bytes=2e9)

    def step(flops: float, moved: float) -> Compilation:
        costs = {"flops": flops, "bytes accessed": moved}
        compiled: Any = SimpleNamespace(cost_analysis=lambda: costs, memory_analysis=lambda: sizes)
        return Compilation(8, 0.0, compiled)

    for chip in CHIPS.values():
        assert estimate(step(1e12, 6e9), 4, chip) == estimate(step(4e12, 9e9), 1, chip)
        assert estimate(step(1e15, 6e9), 4, chip) == estimate(step(4e15, 9e9), 1, chip)
