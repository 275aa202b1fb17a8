"""Files of a run that were damaged: the newest sound checkpoint serves, and what is wrong is named."""

import argparse
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ddpm_jax.training.checkpoint import Checkpoints, checkpoint_steps
from scripts.fault_injection.commands import Outcome, complete, finish, newest_state, same_bits, start, training


def truncate(path: Path) -> None:
    """Loses its second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """Has no bytes left."""
    path.write_bytes(b"")


def remove(path: Path) -> None:
    """Is gone."""
    path.unlink()


def flip(path: Path) -> None:
    """One bit in its middle is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {"cut": truncate, "emptied": empty, "removed": remove, "one bit": flip}


def damage(flags: argparse.Namespace) -> Iterator[Outcome]:
    """Every file of the newest checkpoint in turn; the files beside the checkpoints; and all checkpoints at once."""
    run = flags.folder / "run"
    complete(training(run, train_steps=6))
    for name, harm in DAMAGES.items():
        yield damage_checkpoint(run, name, harm)
    for name, harm in DAMAGES.items():
        for file in ("config.json", "data.json", "labels.json"):
            yield damage_beside(run, file, name, harm)
    everything = shutil.copytree(run, flags.folder / "everything")
    for checkpoint in (everything / "checkpoints").iterdir():
        flip(checkpoint / "config" / "metadata")
    before = files_of(everything / "checkpoints")
    code, said = finish(start(training(everything, train_steps=8)))
    refused = code == 2 and "All checkpoints" in said and files_of(everything / "checkpoints") == before
    yield Outcome("all checkpoints: one bit", 1, "" if refused else f"exit code {code}: {said}", "Refused, untouched.")


def damage_checkpoint(run: Path, name: str, harm: Callable[[Path], None]) -> Outcome:
    """Each file of the newest checkpoint in turn: what is restored is the one before, or the same numbers."""
    steps = checkpoint_steps(run / "checkpoints")
    newest = run / "checkpoints" / str(steps[-1])
    whole = shutil.copytree(newest, run.parent / "whole", dirs_exist_ok=True)
    states = {step: state for step in steps[-2:] for state in [state_at(run, step)]}
    files, wrong, times = [p.relative_to(newest) for p in sorted(newest.rglob("*")) if p.is_file()], [], 0
    for file in files:
        if not (newest / file).stat().st_size:
            continue  # Nothing to damage but its being there.
        harm(newest / file)
        restored = newest_state(run)
        times += 1
        if not same_bits(restored, states[steps[-2]]):
            wrong.append(str(file))
        shutil.rmtree(newest, ignore_errors=True)
        shutil.rmtree(newest.with_name(f"{newest.name}.damaged"), ignore_errors=True)  # To where it was set aside.
        shutil.copytree(whole, newest)
    if not same_bits(newest_state(run), states[steps[-1]]):
        wrong.append("the checkpoint itself")
    return Outcome(f"a file of the newest checkpoint: {name}", times, ", ".join(wrong), "The one before is used.")


def state_at(run: Path, step: int):
    """The state of one step."""
    with Checkpoints(run / "checkpoints") as checkpoints:
        return checkpoints.restore(newest_state(run), step)


def damage_beside(run: Path, file: str, name: str, harm: Callable[[Path], None]) -> Outcome:
    """A file beside the checkpoints: the command goes on all the same, or refuses in one line and changes nothing."""
    folder = shutil.copytree(run, run.parent / f"{file}-{name.replace(' ', '-')}")
    harm(folder / file)
    before = files_of(folder / "checkpoints")
    code, said = finish(start(training(folder, train_steps=6)))
    lines, fault = said.strip().splitlines(), f"{file}: {name}"
    if code == 2 and len(lines) == 1 and file in lines[0] and files_of(folder / "checkpoints") == before:
        return Outcome(fault, 1, "", "Refused in one line that names it.")
    if code == 0 and same_bits(newest_state(folder), newest_state(run)):
        return Outcome(fault, 1, "", "Goes on all the same.")
    return Outcome(fault, 1, f"exit code {code}: {said}")


def files_of(folder: Path) -> dict[str, bytes]:
    """The contents of all files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
