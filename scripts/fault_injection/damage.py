"""Damaged files of a run: the newest intact checkpoint is used, and the damage is named."""

import argparse
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ddpm_jax.training.checkpoint import Checkpoints, checkpoint_steps
from scripts.fault_injection.commands import Outcome, complete, finish, newest_state, same_bits, start, training


def truncate(path: Path) -> None:
    """Removes the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Flips one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": truncate,
    "emptied": lambda path: path.write_bytes(b""),
    "removed": Path.unlink,
    "one bit": flip,
}


def damage(flags: argparse.Namespace) -> Iterator[Outcome]:
    """Damages every file of the newest checkpoint in turn, the files beside the checkpoints, and all checkpoints."""
    run = flags.folder / "run"
    complete(training(run, train_steps=6))
    for name in DAMAGES:
        yield damage_checkpoint(run, name)
    for name in DAMAGES:
        for file in ("config.json", "data.json", "labels.json"):
            yield damage_beside(run, file, name)
    everything = shutil.copytree(run, flags.folder / "everything")
    for checkpoint in (everything / "checkpoints").iterdir():
        flip(checkpoint / "config" / "metadata")
    before = files_of(everything / "checkpoints")
    code, output = finish(start(training(everything, train_steps=8)))
    refused = code == 2 and "All checkpoints" in output and files_of(everything / "checkpoints") == before
    lost = "" if refused else f"exit code {code}: {output}"
    yield Outcome("all checkpoints: one bit", 1, lost, "Refused, untouched.")


def damage_checkpoint(run: Path, name: str) -> Outcome:
    """Damages each file of the newest checkpoint in turn: the checkpoint before must be restored."""
    steps = checkpoint_steps(run / "checkpoints")
    newest = run / "checkpoints" / str(steps[-1])
    whole = shutil.copytree(newest, run.parent / "whole", dirs_exist_ok=True)
    before, last = (state_at(run, step) for step in steps[-2:])
    files = [p.relative_to(newest) for p in sorted(newest.rglob("*")) if p.is_file() and p.stat().st_size]
    wrong = []
    for file in files:
        DAMAGES[name](newest / file)
        if not same_bits(newest_state(run), before):
            wrong.append(str(file))
        shutil.rmtree(newest, ignore_errors=True)
        shutil.rmtree(newest.with_name(f"{newest.name}.damaged"), ignore_errors=True)  # The damaged one, set aside.
        shutil.copytree(whole, newest)
    if not same_bits(newest_state(run), last):
        wrong.append("the checkpoint itself")
    return Outcome(f"a file of the newest checkpoint: {name}", len(files), ", ".join(wrong), "The one before is used.")


def state_at(run: Path, step: int):
    """The state of a step."""
    with Checkpoints(run / "checkpoints") as checkpoints:
        return checkpoints.restore(newest_state(run), step)


def damage_beside(run: Path, file: str, name: str) -> Outcome:
    """Damages a file beside the checkpoints: the command succeeds, or refuses in one line and changes nothing."""
    folder = shutil.copytree(run, run.parent / f"{file}-{name.replace(' ', '-')}")
    DAMAGES[name](folder / file)
    before = files_of(folder / "checkpoints")
    code, output = finish(start(training(folder, train_steps=6)))
    lines, fault = output.strip().splitlines(), f"{file}: {name}"
    if code == 2 and len(lines) == 1 and file in lines[0] and files_of(folder / "checkpoints") == before:
        return Outcome(fault, 1, "", "Refused in one line that names it.")
    if code == 0 and same_bits(newest_state(folder), newest_state(run)):
        return Outcome(fault, 1, "", "Succeeds all the same.")
    return Outcome(fault, 1, f"exit code {code}: {output}")


def files_of(folder: Path) -> dict[str, bytes]:
    """The contents of all files by their paths in the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
