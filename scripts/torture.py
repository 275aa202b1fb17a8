"""Does to this project's commands what machines, disks and schedulers do to them, and says what was lost.

    python scripts/torture.py storm --kills=30      SIGKILL at random moments; then the same command again, to its end
    python scripts/torture.py stop                  SIGTERM and SIGINT: what is kept, and how soon they end
    python scripts/torture.py damage                files of a run cut, emptied, removed, or with one bit flipped
    python scripts/torture.py disk                  full, read-only, gone (needs root, for a small disk in memory)
    python scripts/torture.py numbers               not finite, too large: in batches, gradients, parameters
    python scripts/torture.py processes             one of two processes of a job is killed
    python scripts/torture.py long                  20,000 steps: memory, open files, speed

Each prints a line for each fault, or one JSON object with --json, and exits with 1 if anything was lost. All happens in
--folder, on CPU devices, with a small network on the digits that come with the package.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    """Reads the flags, torments, reports."""
    from ddpm_jax.errors import UserError
    from ddpm_jax.runtime.log import quieten_log
    from scripts.fault_injection import TORMENTS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("torment", choices=TORMENTS)
    parser.add_argument("--folder", type=Path, default=Path("runs/torture"), help="where it happens (runs/torture)")
    parser.add_argument("--kills", type=int, default=30, help="of each kind of work, at least (storm; 30)")
    parser.add_argument("--works", default="train,address,sample,evaluate,prepare", help="what is killed (storm; all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (storm; 0)")
    parser.add_argument("--steps", type=int, default=20_000, help="of the long run (20000)")
    parser.add_argument("--chart", type=Path, help="where to draw the long run, a .png")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    flags = parser.parse_args()
    if flags.folder.exists() and (not flags.folder.is_dir() or any(flags.folder.iterdir())):
        raise UserError(f"--folder={flags.folder} is not empty; choose a new one, or remove it.")
    if flags.kills < 1 or flags.steps < 1:
        raise UserError(f"--kills={flags.kills} and --steps={flags.steps} must be at least 1.")
    flags.folder = flags.folder.resolve()
    flags.folder.mkdir(parents=True, exist_ok=True)
    quieten_log()  # Checkpoints are read to compare them, many times.
    outcomes = []
    for outcome in TORMENTS[flags.torment](flags):
        outcomes.append(outcome._asdict())
        if not flags.json:
            lost = outcome.lost or "nothing"
            print(f"{outcome.fault:60} {outcome.times:>5} times, lost: {lost}. {outcome.remark}", flush=True)
    if flags.json:
        print(json.dumps({"torment": flags.torment, "outcomes": outcomes}))
    if any(outcome["lost"] for outcome in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import exit_code

    sys.exit(exit_code(main))
