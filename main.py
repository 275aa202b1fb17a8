"""python main.py --config=configs/digits.py --workdir=runs/digits (see --help)."""

import sys

from ddpm_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
