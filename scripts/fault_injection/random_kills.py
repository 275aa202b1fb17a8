"""SIGKILL at random times, and SIGTERM and SIGINT."""

import argparse
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_jax.errors import UserError
from scripts.fault_injection.commands import (
    Outcome,
    complete,
    finish,
    flags_of,
    leftovers,
    newest_state,
    same_bits,
    start,
    training,
    wait_for,
)

PICTURES = 1500
"""Images to prepare; above 500, several processes decode them."""


def sample_in(folder: Path) -> list[str]:
    """The command that samples from the trained run."""
    fields = {"sample.count": 200, "sample.batch_size": 10, "sample.sampler": "ddim", "sample.steps": 8}
    return ["main.py", "--mode=sample", f"--workdir={folder}/run", *flags_of(fields)]


def evaluate_in(folder: Path) -> list[str]:
    """The command that measures three samplers and the bound."""
    fields = {"evaluate.features": "pixels", "evaluate.count": 100, "evaluate.samplers": "ddim:2,ddim:4,ddim:8"}
    fields |= {"sample.batch_size": 10, "evaluate.bound_images": 16}
    return ["main.py", "--mode=evaluate", f"--workdir={folder}/run", *flags_of(fields)]


def prepare_in(folder: Path) -> list[str]:
    """The command that decodes images into a cache."""
    fields = {"data.path": folder.parent / "pictures", "data.cache": folder / "cache", "data.image_size": 48}
    return ["scripts/prepare_data.py", *flags_of(fields)]


WORKS: dict[str, Callable[[Path], list[str]]] = {
    "train": lambda folder: training(folder / "run"),
    "sample": sample_in,
    "evaluate": evaluate_in,
    "prepare": prepare_in,
}


def storm(flags: argparse.Namespace) -> Iterator[Outcome]:
    """Kills each command at random times, restarts it until it ends, and compares it with an undisturbed one."""
    works = flags.works.split(",")
    if unknown := set(works) - set(WORKS):
        raise UserError(f"--works={','.join(sorted(unknown))} do not exist; expected some of {', '.join(WORKS)}.")
    draw = np.random.default_rng(flags.seed)
    for work in works:
        undisturbed = create_folder(flags.folder / f"{work}-undisturbed", work)
        complete(WORKS[work](undisturbed))  # Also fills the cache of compiled code.
        timed = create_folder(flags.folder / f"{work}-timed", work)
        began = time.monotonic()
        complete(WORKS[work](timed))
        duration, kills, lost, rounds = time.monotonic() - began, 0, "", 0
        while kills < flags.kills and not lost:
            folder, rounds = create_folder(flags.folder / f"{work}-{rounds}", work), rounds + 1
            killed, lost = kill_repeatedly(work, folder, draw, duration, flags.kills - kills)
            kills, lost = kills + killed, lost or differences(work, undisturbed, folder)
        yield Outcome(
            f"SIGKILL during {work}", kills, lost, f"{rounds} runs, each of which ends like an undisturbed one."
        )


def create_folder(folder: Path, work: str) -> Path:
    """Creates a folder in which a command can start."""
    folder.mkdir()
    if work in ("sample", "evaluate"):
        trained = folder.parent / "trained"
        if not trained.exists():
            complete(training(trained))
        shutil.copytree(trained, folder / "run")
    if work == "prepare" and not (pictures := folder.parent / "pictures").exists():
        pictures.mkdir()
        draw = np.random.default_rng(0)
        for i in range(PICTURES):
            Image.fromarray(draw.integers(0, 256, (64, 64, 3), np.uint8)).save(pictures / f"{i:04d}.png")
    return folder


def kill_repeatedly(work: str, folder: Path, draw: np.random.Generator, duration: float, kills: int) -> tuple[int, str]:
    """Kills a command at most `kills` times, then lets it end; returns the number of kills, and any error."""
    killed = 0
    while True:
        process = start(WORKS[work](folder))
        try:
            code, output = finish(process, draw.uniform(0.1, duration) if killed < kills else 600)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            continue
        return killed, f"after {killed} kills it ended with {code}: {output[-300:]}" if code else ""


def differences(work: str, undisturbed: Path, folder: Path) -> str:
    """The difference from an undisturbed command's results; empty if there is none."""
    if left := leftovers(folder):
        return f"left over: {', '.join(left[:5])}"
    if work == "train":
        same = same_bits(newest_state(undisturbed / "run"), newest_state(folder / "run"))
        return "" if same else "another final state"
    kinds = {"sample": "run/samples/**/*", "evaluate": "run/evaluation/*.json", "prepare": "cache/**/*"}
    found = [
        {path.relative_to(where): content(path) for path in where.glob(kinds[work]) if path.is_file()}
        for where in (undisturbed, folder)
    ]
    return "" if found[0] == found[1] else "other files"


def content(path: Path) -> object:
    """The content of a file without times."""
    if path.name == "about.json":
        return {name: value for name, value in json.loads(path.read_text()).items() if name != "changed"}
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    return json.loads(path.read_text()) if path.suffix == ".json" else path.read_bytes()


def stop(flags: argparse.Namespace) -> Iterator[Outcome]:
    """Stops each command while it has unsaved work; reports how soon it ends and whether it resumes."""
    marks = {
        "train": "run/checkpoints/20/SHA256SUMS",
        "sample": "run/samples/.*/frames.npy",
        "evaluate": "run/evaluation/.*/frames.npy",
        "prepare": "cache/.*.partial/images.u8",
    }
    for work, mark in marks.items():
        for number in (signal.SIGTERM, signal.SIGINT):
            folder = create_folder(flags.folder / f"{work}-{number.name}", work)
            process = start(WORKS[work](folder))
            wait_for(process, folder, mark)
            process.send_signal(number)
            sent = time.monotonic()
            code, output = finish(process)
            seconds = time.monotonic() - sent
            lost = "" if code == 128 + number and seconds < 30 else f"ended with {code} after {seconds:.1f} s: {output}"
            complete(WORKS[work](folder))
            lost = lost or ", ".join(leftovers(folder))
            yield Outcome(f"{number.name} during {work}", 1, lost, f"Exit code {code} after {seconds:.1f} s.")
