"""SIGKILL at random moments, and the signals that ask."""

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
)

PICTURES = 1500
"""To prepare; more than 500 are decoded by several processes."""


def train_in(folder: Path) -> list[str]:
    """Training."""
    return training(folder / "run")


def train_there(folder: Path) -> list[str]:
    """Training in a copy of what lies at an address, which is brought there all the time."""
    return ["scripts/fault_injection/eagerly.py", *training(f"file://{folder}/run")[1:]]


def sample_in(folder: Path) -> list[str]:
    """Drawing images from what was trained."""
    wanted = {"sample.count": 200, "sample.batch_size": 10, "sample.sampler": "ddim", "sample.steps": 8}
    return ["main.py", "--mode=sample", f"--workdir={folder}/run", *flags_of(wanted)]


def evaluate_in(folder: Path) -> list[str]:
    """Measuring three samplers and the bound."""
    wanted = {"evaluate.features": "pixels", "evaluate.count": 100, "evaluate.samplers": "ddim:2,ddim:4,ddim:8"}
    wanted |= {"sample.batch_size": 10, "evaluate.bound_images": 16}
    return ["main.py", "--mode=evaluate", f"--workdir={folder}/run", *flags_of(wanted)]


def prepare_in(folder: Path) -> list[str]:
    """Decoding pictures into a cache."""
    wanted = {"data.path": folder.parent / "pictures", "data.cache": folder / "cache", "data.image_size": 48}
    return ["scripts/prepare_data.py", *flags_of(wanted)]


WORKS: dict[str, Callable[[Path], list[str]]] = {
    "train": train_in,
    "address": train_there,
    "sample": sample_in,
    "evaluate": evaluate_in,
    "prepare": prepare_in,
}


def storm(flags: argparse.Namespace) -> Iterator[Outcome]:
    """Kills each kind of work at random moments, begins it again until it ends, and compares with one left alone."""
    works = flags.works.split(",")
    if unknown := set(works) - set(WORKS):
        raise UserError(f"--works={','.join(sorted(unknown))} do not exist; expected some of {', '.join(WORKS)}.")
    draw = np.random.default_rng(flags.seed)
    for work in works:
        undisturbed = begin(flags.folder / f"{work}-alone", work)
        complete(WORKS[work](undisturbed))  # Also fills the cache of compiled code.
        timed = begin(flags.folder / f"{work}-timed", work)
        began = time.monotonic()
        complete(WORKS[work](timed))
        length, kills, lost, rounds = time.monotonic() - began, 0, "", 0
        while kills < flags.kills and not lost:
            folder, rounds = begin(flags.folder / f"{work}-{rounds}", work), rounds + 1
            killed, lost = one_storm(work, folder, draw, length, flags.kills - kills)
            kills, lost = kills + killed, lost or differences(work, undisturbed, folder)
        yield Outcome(f"SIGKILL during {work}", kills, lost, f"{rounds} runs, each of which ends as one left alone.")


def begin(folder: Path, work: str) -> Path:
    """A folder in which a kind of work can start."""
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


def one_storm(work: str, folder: Path, draw: np.random.Generator, length: float, kills: int) -> tuple[int, str]:
    """Kills up to so many times, then lets the work end; returns how often, and what went wrong."""
    killed = 0
    while True:
        process = start(WORKS[work](folder))
        try:
            code, said = finish(process, draw.uniform(0.1, length) if killed < kills else 600)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            continue
        return killed, f"after {killed} kills it ended with {code}: {said[-300:]}" if code else ""


def differences(work: str, undisturbed: Path, folder: Path) -> str:
    """What is not as it is where nothing was killed."""
    if left := leftovers(folder):
        return f"left over: {', '.join(left[:5])}"
    if work in ("train", "address"):
        same = same_bits(newest_state(undisturbed / "run"), newest_state(folder / "run"))
        return "" if same else "another final state"
    kinds = {"sample": "run/samples/**/*", "evaluate": "run/evaluation/*.json", "prepare": "cache/**/*"}
    found = [
        {path.relative_to(where): content(path) for path in where.glob(kinds[work]) if path.is_file()}
        for where in (undisturbed, folder)
    ]
    return "" if found[0] == found[1] else "other files"


def content(path: Path) -> object:
    """What must be the same in two files."""
    if path.name == "about.json":  # Tells when the file beside it was written.
        return {name: value for name, value in json.loads(path.read_text()).items() if name != "changed"}
    if path.suffix == ".npz":  # A zip file, which holds the time.
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    return json.loads(path.read_text()) if path.suffix == ".json" else path.read_bytes()


def stop(flags: argparse.Namespace) -> Iterator[Outcome]:
    """Asks each mode to stop when it has something to lose, and looks at how soon it ends and what it kept."""
    marks = {
        "train": "run/checkpoints/20/SHA256SUMS",
        "sample": "run/samples/.*/frames.npy",
        "evaluate": "run/evaluation/.*/frames.npy",
        "prepare": "cache/.*.partial/images.u8",
    }
    for work, mark in marks.items():
        for number in (signal.SIGTERM, signal.SIGINT):
            folder = begin(flags.folder / f"{work}-{number.name}", work)
            process = start(WORKS[work](folder))
            while not any(folder.glob(mark)) and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(number)
            asked = time.monotonic()
            code, said = finish(process)
            seconds = time.monotonic() - asked
            lost = "" if code == 128 + number and seconds < 30 else f"ended with {code} after {seconds:.1f} s: {said}"
            complete(WORKS[work](folder))
            lost = lost or ", ".join(leftovers(folder))
            yield Outcome(f"{number.name} during {work}", 1, lost, f"Exit code {code} after {seconds:.1f} s.")
