"""main.py with frequent and slow uploads of a workdir at a URL, so that random kills interrupt them."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from fsspec.implementations.local import LocalFileSystem

from ddpm_jax.commands import mirror
from ddpm_jax.commands.cli import main

_put = LocalFileSystem.put_file


def put_slowly(*args: object, **options: object) -> None:
    """Uploads a file over a slow network."""
    time.sleep(0.01)
    _put(*args, **options)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    mirror.EVERY = 0.1
    LocalFileSystem.put_file = put_slowly  # pyright: ignore[reportAttributeAccessIssue]
    sys.exit(main(sys.argv))
