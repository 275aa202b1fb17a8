"""python main.py --config=configs/digits.py --workdir=runs/digits (see --help)."""

import sys

if __name__ == "__main__":
    # Processes that decode images import this file too, and need nothing of the rest.
    from ddpm_jax.commands.cli import main

    sys.exit(main(sys.argv))
