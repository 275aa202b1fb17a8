"""Writes the raw and EMA parameters of a run and its configuration to one safetensors file.

    python scripts/export_safetensors.py runs/x model.safetensors
    python scripts/export_safetensors.py runs/x small.safetensors --ema-only --bfloat16

With --ema-only, the file contains only the EMA parameters, which suffice for sampling, at half the size; --bfloat16
halves it again, and rounds the parameters to three significant digits.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    """Parses the flags, loads the run, writes the file."""
    import jax
    import jax.numpy as jnp

    from ddpm_jax.interop.safetensors_file import write_file
    from ddpm_jax.run import load_run

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("workdir", help="the run's folder or URL")
    parser.add_argument("file", type=Path, help="a new .safetensors file")
    parser.add_argument("--step", type=int, help="training step of the checkpoint (default: the newest)")
    parser.add_argument("--ema-only", "--average", action="store_true", help="leave the raw parameters out")
    parser.add_argument("--bfloat16", action="store_true", help="write bfloat16 instead of float32")
    flags = parser.parse_args()
    path = flags.file.expanduser().resolve()
    run = load_run(flags.workdir, step=flags.step)
    ema = run.params
    params = None if flags.ema_only else load_run(flags.workdir, step=run.step, ema=False).params
    if flags.bfloat16:
        params, ema = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, ema))
    write_file(path, run.config, params, ema, names=run.names, step=run.step)
    logging.getLogger("ddpm_jax").info("Wrote %s, step %d", path, run.step)


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import end_process, exit_code

    end_process(exit_code(main))
