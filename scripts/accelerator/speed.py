"""Speed of training and sampling in bfloat16, alone and against diffusers: scripts/benchmark.py with its flags."""

import json
import time
from collections.abc import Sequence
from functools import partial

from scripts.accelerator.parts import Check, Failed, Part, Results, Skipped, output_of

SMALL, LARGE = 128, 512
SAMPLED, SAMPLING_STEPS = 256, 50
"""Batch and steps of DDIM."""
TOY, TOY_STEPS = 4, 4
"""Batch and steps of DDIM in a quick check."""
VARIANT = "compiled channels_last"
IMPORTS = "import torch, diffusers"


def benchmark(
    check: Check, seconds: float, command: str, recipe: str, batch: int, flags: Sequence[str] = ()
) -> Results:
    """The output of a command of scripts/benchmark.py for a recipe."""
    rounds, repeat = 3, 5 if command == "train" else 1
    if check.quick:
        batch, rounds, repeat = TOY, 1, 1
    words = ["scripts/benchmark.py", command, *check.recipe(recipe), f"--batch={batch}", "--dtype=bfloat16", "--json"]
    return json.loads(output_of([*words, f"--rounds={rounds}", f"--repeat={repeat}", *flags], seconds))


def sampling_flags(check: Check) -> list[str]:
    """DDIM with its number of steps."""
    steps = TOY_STEPS if check.quick else SAMPLING_STEPS
    return ["--config.sample.sampler=ddim", f"--config.sample.steps={steps}"]


def measure_training(check: Check, seconds: float, recipe: str, batch: int) -> Results:
    """Images/s, FLOP/s, their share of a large matrix product's rate, and peak memory of the training step."""
    if check.quick and batch == LARGE:
        raise Skipped("a quick check measures one batch")
    return benchmark(check, seconds, "train", recipe, batch)


def measure_sampling(check: Check, seconds: float) -> Results:
    """Images/s and peak memory of DDIM."""
    facts = benchmark(check, seconds, "sample", "cifar10", SAMPLED, sampling_flags(check))
    (rate,) = (value for name, value in facts.items() if name.endswith("_images_per_second"))
    return {**facts, "images_per_second": rate}


def compare(check: Check, seconds: float, command: str, batch: int) -> Results:
    """The same by turns with diffusers: its network compiled, in channels_last and autocast to bfloat16."""
    end = time.monotonic() + seconds
    try:
        output_of(["-c", IMPORTS], seconds, python=check.peer_python)
    except Failed as error:
        if "No module named" in str(error):
            raise Skipped(f"not compared: {str(error).rpartition('No module named ')[2]} is not installed") from error
        raise
    variant = VARIANT.replace("compiled", "eager") if check.quick else VARIANT
    flags = ["--peer=diffusers", f"--peer-python={check.peer_python}", f"--variants={variant}"]
    if command == "sample":
        flags += sampling_flags(check)
    return benchmark(check, end - time.monotonic(), command, "cifar10", batch, flags)


def training_part(recipe: str, batch: int) -> Part:
    """The part that measures a recipe's training step."""
    return Part(f"train {recipe}, batch {batch}", partial(measure_training, recipe=recipe, batch=batch))


PARTS = (
    training_part("cifar10", SMALL),
    Part(f"sample cifar10, batch {SAMPLED}", measure_sampling),
    training_part("celeba64", SMALL),
    training_part("cifar10", LARGE),
    training_part("celeba64", LARGE),
)
PEER_PARTS = (
    Part("train cifar10 against diffusers", partial(compare, command="train", batch=SMALL), 0.9),
    Part("sample cifar10 against diffusers", partial(compare, command="sample", batch=SAMPLED)),
)
