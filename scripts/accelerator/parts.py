"""A part of the check: what it measures, its share of the time, and how it ended.

A part runs its work as commands in processes of their own, each with a time limit, so that one that hangs or crashes
takes nothing else with it; above all this process never opens the accelerator, which belongs to the command that runs.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from ddpm_jax.runtime.signals import polling, raise_if_stopped

ROOT = Path(__file__).parents[2]
Results = dict[str, Any]
TINY = ("--config.model.multipliers=(1,)", "--config.model.attention_resolutions=()", "--config.data.image_size=8")
"""Fields that make a toy network compile in seconds."""


class Failed(Exception):
    """A part's command failed, or its result is wrong; the message says how."""


class OutOfTime(Exception):
    """A part's command was not ready at its time limit."""


class Skipped(Exception):
    """A part cannot run here; the message says why."""


STATUS = {Failed: "failed", OutOfTime: "out of time", Skipped: "skipped"}


@dataclasses.dataclass
class Check:
    """The flags of the command, and what the parts have found so far."""

    out: Path
    folder: Path
    """A temporary folder for the runs."""
    data: Path | None
    weights: Path | None
    peer_python: str
    quick: bool
    end: float
    """The value of time.monotonic() at which the time is over."""
    results: dict[str, Results] = dataclasses.field(default_factory=dict)
    """Results of the parts that are ok, by name."""

    def recipe(self, name: str, *, smoke: bool = False) -> list[str]:
        """The flags of a recipe, or of its toy version; in a quick check of a still smaller one."""
        flags = [f"--config=configs/{name}.py{':smoke' if self.quick or smoke else ''}"]
        return [*flags, *TINY] if self.quick else flags

    @property
    def platform(self) -> str:
        """JAX's name of the platform, such as "gpu"; "" if it is unknown."""
        return self.results.get("device", {}).get("platform", "")


class Part(NamedTuple):
    """One measurement."""

    name: str
    work: Callable[[Check, float], Results]
    """From a time limit in seconds to results; raises Failed, OutOfTime or Skipped, whose messages say why."""
    share: float = 0.6
    """Largest share of what is left of the group's time, so that a part that hangs leaves some to the next ones."""


def run_parts(check: Check, groups: Sequence[tuple[float, Sequence[Part]]]) -> Iterator[dict[str, Any]]:
    """Runs all parts and yields the report of each.

    groups: pairs of the seconds that some parts may take together, and these parts.
    """
    for seconds, parts in groups:
        end = min(check.end, time.monotonic() + seconds)
        for part in parts:
            share = 1.0 if part is parts[-1] else part.share
            yield run_part(check, part, share * (end - time.monotonic()))


def run_part(check: Check, part: Part, seconds: float) -> dict[str, Any]:
    """The report of a part: its name, status, reason, seconds and results."""
    start, status, reason, results = time.monotonic(), "ok", "", {}
    try:
        results = check.results[part.name] = part.work(check, seconds)
    except (Failed, OutOfTime, Skipped) as error:
        status, reason = STATUS[type(error)], str(error)
    except (OSError, KeyError, ValueError) as error:  # Files and JSON that a command left incomplete.
        status, reason = "failed", f"{type(error).__name__}: {error}"
    taken = round(time.monotonic() - start, 1)
    return {"part": part.name, "status": status, "reason": reason, "seconds": taken, "results": results}


def output_of(
    words: Sequence[str | Path],
    seconds: float,
    variables: Mapping[str, str] | None = None,
    *,
    python: str = sys.executable,
    codes: Sequence[int] = (0,),
    grace: float = 0.0,
) -> str:
    """Standard output of a Python program; variables: additions to its environment; codes: exit codes of success.

    The last `grace` of the seconds are between SIGTERM, on which training saves, and SIGKILL.
    Raises OutOfTime at the limit and Failed for other exit codes, with the end of the standard error.
    """
    if seconds <= grace:
        raise OutOfTime("no time was left to start it")
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [python, *map(str, words)],
            cwd=ROOT,
            env={**os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        try:
            ended = _ended(process, seconds - grace)
            if not ended and grace:
                process.send_signal(signal.SIGTERM)
                ended = _ended(process, grace)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # With the processes that it started.
            process.wait()
        if not ended:
            raise OutOfTime(f"not ready after {seconds:.0f} s{_last_lines(errors, '; its last words: ', 1)}")
        if (code := process.returncode) not in codes:
            how = f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
            raise Failed(how + _last_lines(errors, ": ", 3))
        output.seek(0)
        return output.read()


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Waits for a process, at most this long."""
    deadline = time.monotonic() + seconds
    with polling():
        while process.poll() is None:
            raise_if_stopped()
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
    return True


def _last_lines(file: IO[str], before: str, count: int) -> str:
    """The last lines of a file in one, after the text `before`; nothing for an empty file."""
    file.seek(0)
    lines = [line.strip() for line in file.read().replace("\r", "\n").splitlines() if any(map(str.isalnum, line))]
    return before + " | ".join(lines[-count:]) if lines else ""
