"""Imports a file that scripts/export_safetensors.py wrote as a run.

    python scripts/import_safetensors.py model.safetensors runs/imported
    python main.py --mode=sample --workdir=runs/imported

The run begins at step 0, since the file does not contain the optimizer state. --config.FIELD=VALUE sets a field.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    """Parses the flags, reads the file, writes the run."""
    from ddpm_jax.config import check_overrides, config_of, override, to_config_dict
    from ddpm_jax.interop.runs import new_workdir, refuse_contradictions, start_run
    from ddpm_jax.interop.safetensors_file import find_file, read_file

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("file", help="a .safetensors file, or pretrained:NAME, a model that comes with the package")
    parser.add_argument("workdir", help="a new folder for the run")
    flags, overrides = parser.parse_known_args()
    check_overrides(overrides, ["help"])
    workdir = new_workdir(flags.workdir)
    saved = read_file(find_file(flags.file))
    config = config_of(override(to_config_dict(saved.config), overrides))
    refuse_contradictions(saved.fields, config)
    start_run(config, workdir, saved.tree("params"), saved.names, ema=saved.tree("ema"))


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import end_process, exit_code

    end_process(exit_code(main))
