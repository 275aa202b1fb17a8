"""Training of cifar10 for the minutes that are left, and what came out: losses, samples, FID, EMA parameters."""

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

from ddpm_jax.reporting.curves import read_curves
from ddpm_jax.training.checkpoint import checkpoint_steps
from ddpm_jax.workdir import checkpoint_folder
from scripts.accelerator.parts import Check, OutOfTime, Part, Results, Skipped, output_of

STOPPED = 143
"""The exit code of training after SIGTERM."""
GRACE_S = 30.0
"""Seconds for the last step and its checkpoint."""
TRAINING_SHARE, WITH_FID = 0.75, 0.7
"""Share of this group's time for training, and the factor by which it is shorter if FID follows."""
TOY_STEPS = 20
"""Training steps of a quick check, which need not wait for the deadline."""
REFERENCE = {"loss": 0.0295, "steps": 46_800, "batch": 128}
"""A training loss of cifar10 that others report, which only applies after this many steps."""
PIECE_BYTES = 15 * 2**20
MODEL = "ema.safetensors"
SAMPLED = 2_000
PLACES = ("newest", "middle", "oldest")


def recipe_flags(check: Check) -> list[str]:
    """The recipe and its data: digits at toy size where a quick check has no images."""
    if check.data:
        return [*check.recipe("cifar10"), f"--config.data.path={check.data}", "--config.data.source=arrays"]
    if check.quick:
        return check.recipe("digits")
    raise Skipped("no images; give --data=cifar10.npz")


def main_words(check: Check, mode: str, *fields: str) -> list[str]:
    """A command of main.py on the run."""
    return ["main.py", f"--mode={mode}", f"--workdir={workdir(check)}", *(f"--config.{field}" for field in fields)]


def workdir(check: Check) -> Path:
    """The run's folder."""
    return check.folder / "run"


def saved_steps(check: Check) -> list[int]:
    """The steps of the run's checkpoints; raises Skipped if there is none."""
    steps = checkpoint_steps(checkpoint_folder(workdir(check)))
    if not steps:
        raise Skipped("training left no checkpoint")
    return steps


def train(check: Check, seconds: float) -> Results:
    """Trains until the deadline, then stops it by SIGTERM, which saves; a few steps in a quick check."""
    fields = ["model.dtype=bfloat16", "log.preview_every=0", "checkpoint.keep=1000"]
    fields += [f"data.cache={check.folder / 'cache'}"]
    limit = seconds * (WITH_FID if check.weights else 1.0)
    if check.quick:
        fields += [f"train.steps={TOY_STEPS}", "checkpoint.every=10", "log.validate_every=10"]
    else:
        every = checkpoint_interval(check, limit)
        fields += ["train.steps=1000000", "data.batch_size=128"]
        fields += [f"checkpoint.every={every}", f"log.validate_every={every}"]
    flags = recipe_flags(check)
    output_of([*main_words(check, "train", *fields), *flags], limit, codes=(0, STOPPED), grace=min(GRACE_S, limit / 4))
    steps = checkpoint_steps(checkpoint_folder(workdir(check)))
    if not steps:
        raise OutOfTime(f"{limit:.0f} s did not suffice to compile and save a first step")
    return {"steps": steps[-1], **curves(workdir(check)), "reference": REFERENCE}


def checkpoint_interval(check: Check, seconds: float) -> int:
    """Steps between checkpoints such that there are about three, by the measured rate; 500 if it is unknown."""
    measured = check.results.get("train cifar10, batch 128")
    return max(100, int(measured["ours"]["images_per_second"] * seconds / 128 / 3.5)) if measured else 500


def curves(folder: Path) -> Results:
    """The last points of a run's curves."""
    points, facts = read_curves(folder), {}
    for name, tag in {
        "train_loss": "train/loss",
        "validation_loss_ema": "validation/loss_ema",
        "validation_loss_raw": "validation/loss_raw",
        "share_of_matrix_product": "speed/share_of_peak",
        "peak_memory_mebibytes": "memory/device_memory_mebibytes",
    }.items():
        facts[name] = dict(zip(("step", "value"), points[tag][-1], strict=True)) if tag in points else None
    rates = sorted(value for _, value in points["speed/images_per_second"])
    return {**facts, "images_per_second": rates[len(rates) // 2]}


def export(check: Check, seconds: float) -> Results:
    """The EMA parameters in bfloat16, in pieces."""
    saved_steps(check)
    whole = check.folder / MODEL
    output_of(["scripts/export_safetensors.py", workdir(check), whole, "--ema-only", "--bfloat16"], seconds)
    return split(whole, check.out)


def split(whole: Path, out: Path, piece_bytes: int = PIECE_BYTES) -> Results:
    """Writes a file's pieces, <name>.00 and so on, which `cat` joins again."""
    content = whole.read_bytes()
    starts = range(0, len(content), piece_bytes)
    names = [f"{whole.name}.{number:02}" for number in range(len(starts))]
    for name, start in zip(names, starts, strict=True):
        (out / name).write_bytes(content[start : start + piece_bytes])
    return {"pieces": names, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def sampling_fields(check: Check) -> list[str]:
    """DDIM."""
    return ["sample.sampler=ddim", f"sample.steps={4 if check.quick else 50}"]


def sample(check: Check, seconds: float) -> Results:
    """A grid of 64 samples."""
    saved_steps(check)
    folder = check.folder / "samples"
    fields = [*sampling_fields(check), "sample.count=64", "sample.gif=0", "sample.strip=0", f"sample.out={folder}"]
    output_of(main_words(check, "sample", *fields), seconds)
    (picture,) = folder.rglob("grid.png")
    shutil.copy(picture, check.out / "grid.png")
    return {"picture": "grid.png"}


def evaluate(check: Check, seconds: float, place: str) -> Results:
    """The Fréchet distance of DDIM samples of one checkpoint to the training split."""
    steps = saved_steps(check)
    if check.weights:
        features = ["evaluate.features=inception-768", f"evaluate.weights={check.weights}"]
    elif check.quick and not check.data:
        features = ["evaluate.features=pixels"]
    else:
        raise Skipped("no weights of Inception; give --weights=….safetensors")
    if len(steps) < len(PLACES) and place != "newest":
        raise Skipped(f"training left only the checkpoints {', '.join(map(str, steps))}")
    step = {"newest": steps[-1], "middle": steps[len(steps) // 2], "oldest": steps[0]}[place]
    count = 100 if check.quick else sample_count(check, seconds)
    fields = [*sampling_fields(check), *features, f"evaluate.count={count}", f"sample.checkpoint={step}"]
    output_of(main_words(check, "evaluate", *fields, "sample.batch_size=250"), seconds)
    (result,) = json.loads((workdir(check) / "evaluation" / f"{step}.json").read_text()).values()
    return {"step": step, "samples": count, "distance": result["protocol"]["distance"], "fid": result["fid"]}


def sample_count(check: Check, seconds: float) -> int:
    """2,000 images, or as many as a quarter of the seconds allows at the measured rate."""
    measured = check.results.get("sample cifar10, batch 256")
    return SAMPLED if measured is None else int(min(SAMPLED, max(100, measured["images_per_second"] * seconds / 4)))


PARTS = (
    Part("train", train, TRAINING_SHARE),
    Part("EMA parameters", export),
    Part("grid", sample),
    *(Part(f"FID, {place} checkpoint", partial(evaluate, place=place)) for place in PLACES),
)
