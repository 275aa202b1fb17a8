"""Fault injection: does to this project's commands what machines, disks and schedulers do, and reports losses.

    python scripts/torture.py storm --kills=30      SIGKILL at random times, then the same command again until it ends
    python scripts/torture.py stop                  SIGTERM and SIGINT: what is kept, and how soon commands end
    python scripts/torture.py damage                files of a run truncated, emptied, removed, or with one bit flipped
    python scripts/torture.py disk                  full, read-only or removed disks (needs root, to mount a tmpfs)
    python scripts/torture.py numbers               not finite or too large: in batches, gradients, parameters
    python scripts/torture.py processes             one of two processes of a job is killed
    python scripts/torture.py long                  20,000 steps: memory, open files, speed

Each prints one line for each fault, or one JSON object with --json, and exits with 1 if anything was lost. Everything
runs in --folder, on CPU devices, with a small network on the digits that come with the package.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    """Injects one kind of fault and prints the outcomes."""
    from ddpm_jax.errors import UserError
    from ddpm_jax.runtime.log import quieten_log
    from scripts.fault_injection import COMMANDS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--folder", type=Path, default=Path("runs/torture"), help="a new folder (runs/torture)")
    parser.add_argument("--kills", type=int, default=30, help="minimum number of kills for each of --works (storm; 30)")
    parser.add_argument(
        "--works", default="train,address,sample,evaluate,prepare", help="commands to kill (storm; all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the times of the kills (storm; 0)")
    parser.add_argument("--steps", type=int, default=20_000, help="steps of the long run (20000)")
    parser.add_argument("--chart", type=Path, help="a .png file for a chart of the long run")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    flags = parser.parse_args()
    if flags.folder.exists() and (not flags.folder.is_dir() or any(flags.folder.iterdir())):
        raise UserError(f"--folder={flags.folder} is not empty; choose a new one, or remove it.")
    if flags.kills < 1 or flags.steps < 1:
        raise UserError(f"--kills={flags.kills} and --steps={flags.steps} must be at least 1.")
    flags.folder = flags.folder.resolve()
    flags.folder.mkdir(parents=True, exist_ok=True)
    quieten_log()  # Checkpoints are read many times, to compare them.
    outcomes = []
    for outcome in COMMANDS[flags.command](flags):
        outcomes.append(outcome._asdict())
        if not flags.json:
            lost = outcome.lost or "nothing"
            print(f"{outcome.fault:60} {outcome.times:>5} times, lost: {lost}. {outcome.remark}", flush=True)
    if flags.json:
        print(json.dumps({"command": flags.command, "outcomes": outcomes}))
    if any(outcome["lost"] for outcome in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import end_process, exit_code

    end_process(exit_code(main))
