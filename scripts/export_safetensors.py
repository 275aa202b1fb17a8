"""Writes the parameters of a run, and their average, to one safetensors file with the configuration inside.

    python scripts/export_safetensors.py runs/x model.safetensors
    python scripts/export_safetensors.py runs/x small.safetensors --average

With --average the file holds the average alone, which images are drawn from: half the size.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    """Reads the flags and the run, writes the file."""
    from ddpm_jax.interop.safetensors_file import write_file
    from ddpm_jax.run import load_run

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("workdir", help="of the run")
    parser.add_argument("file", type=Path, help="a new .safetensors file")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the newest)")
    parser.add_argument("--average", action="store_true", help="leave the parameters themselves out")
    flags = parser.parse_args()
    path = flags.file.expanduser().resolve()
    average = load_run(flags.workdir, step=flags.step)
    params = None if flags.average else load_run(flags.workdir, step=average.step, ema=False).params
    write_file(path, average.config, params, average.params, names=average.names, step=average.step)
    logging.getLogger("ddpm_jax").info("Wrote %s, step %d", path, average.step)


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import exit_code

    sys.exit(exit_code(main))
