"""Everything to learn about a GPU or TPU in a few minutes: laws, speed, comparison with diffusers, a short training.

    python scripts/check_accelerator.py --out=check/ --data=cifar10.npz --weights=inception.safetensors

runs, within --minutes, compiling included, and each part in processes of its own, so that one that fails or hangs is
reported and the others still run:
- the samplers' laws, one device = several, resume to the bit (at most 2.25 of 8 minutes);
- images/s, FLOP/s and memory of training and sampling in bfloat16 (2.5 of 8);
- the same by turns against diffusers, where PyTorch and diffusers can be imported (1 of 8);
- training of cifar10 from --data for the minutes that are left, samples, and FID with --weights.

Writes check.json, check.md (tables for docs/benchmarks.md), grid.png, train.log and the EMA parameters in pieces. Exits
with 0 if each part is ok or skipped, with 1 otherwise. --quick runs every part at toy size, also on a CPU.
"""

import argparse
import datetime
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.accelerator import laws, speed, training  # noqa: E402
from scripts.accelerator.parts import Check, Part, run_parts  # noqa: E402
from scripts.accelerator.report import markdown  # noqa: E402

MINUTES = 8.0
GROUPS: tuple[tuple[float, Sequence[Part]], ...] = (
    (2.25 / MINUTES, laws.PARTS),
    (2.5 / MINUTES, speed.PARTS),
    (1.0 / MINUTES, speed.PEER_PARTS),
    (1.0, training.PARTS),
)
"""Parts in their order, and the largest share of all minutes that a group takes; the last one takes what is left."""


def main() -> int:
    """Runs all parts, writes the reports, and returns the exit code."""
    flags = checked_flags()
    if flags.quick:  # Optimising programs of toy size would take most of the time.
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    start, seconds = time.monotonic(), 60.0 * flags.minutes
    facts: dict[str, Any] = {**description(), "quick": flags.quick, "minutes": flags.minutes, "parts": []}
    with tempfile.TemporaryDirectory(prefix="ddpm_jax-check-") as folder:
        # Training reuses what the measurement of its speed compiled.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/xla")
        kept = {name: getattr(flags, name) for name in ("out", "data", "weights", "peer_python", "quick")}
        check = Check(folder=Path(folder), end=start + seconds, **kept)
        for report in run_parts(check, [(share * seconds, parts) for share, parts in GROUPS]):
            reason = f": {report['reason']}" if report["reason"] else ""
            print(
                f"{report['part']:34}{report['seconds']:>6.1f} s  {report['status']}{reason}",
                file=sys.stderr,
                flush=True,
            )
            facts["parts"].append(report)
            write(flags.out, facts | {"seconds": round(time.monotonic() - start, 1)})
        if (log := training.workdir(check) / "train.log").exists():
            shutil.copy(log, flags.out)
    print((flags.out / ("check.json" if flags.json else "check.md")).read_text(), end="")
    return int(any(report["status"] not in ("ok", "skipped") for report in facts["parts"]))


def checked_flags() -> argparse.Namespace:
    """The flags; raises UserError for a file that does not exist, minutes out of range, or a folder in use."""
    from ddpm_jax.errors import UserError

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the reports")
    parser.add_argument("--data", type=Path, help="CIFAR-10's images as an .npz (docs/data.md); none: no training")
    parser.add_argument("--weights", type=Path, help="Inception's weights, a .safetensors file; none: no FID")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time for everything, 1 to 600 (default 8)")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter with PyTorch (default: this one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--quick", action="store_true", help="every part at toy size")
    flags = parser.parse_args()
    for name, expected in ("data", "an .npz of images"), ("weights", "Inception's weights, a .safetensors file"):
        path = getattr(flags, name)
        if path is not None and not path.is_file():
            raise UserError(f"--{name}={path} is not a file; expected {expected}: correct the path, or leave it out.")
        setattr(flags, name, path and path.resolve())
    if not 1 <= flags.minutes <= 600:
        raise UserError(f"--minutes={flags.minutes:g} is out of range; expected 1 to 600.")
    if shutil.which(flags.peer_python) is None:
        raise UserError(f"--peer-python={flags.peer_python} cannot be run; expected a Python interpreter.")
    if flags.out.exists() and (not flags.out.is_dir() or any(flags.out.iterdir())):
        raise UserError(f"--out={flags.out} is not an empty folder; choose a new one.")
    flags.out = flags.out.resolve()
    flags.out.mkdir(parents=True, exist_ok=True)
    return flags


def description() -> dict[str, Any]:
    """The date and the commit, if git knows one."""
    from ddpm_jax.runtime.source import commit_of_code

    return {"date": datetime.date.today().isoformat(), "commit": commit_of_code()}


def write(out: Path, facts: dict[str, Any]) -> None:
    """Writes what is known so far, after each part, so that an interrupted check leaves its results."""
    (out / "check.json").write_text(json.dumps(facts, indent=2) + "\n")
    (out / "check.md").write_text(markdown(facts))


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import end_process, exit_code

    end_process(exit_code(main))
