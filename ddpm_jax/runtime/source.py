"""The commit of the code that runs, as Git knows it."""

import os
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
TIMEOUT_S = 10.0
"""Git compares each file with the commit, which may take long on a network disk."""


def commit_of_code(package: Path = PACKAGE) -> str | None:
    """The hash of the commit that a folder of code belongs to, with "-dirty" if the checkout differs from it.

    None without Git, and for an installed package, even one that lies in the checkout of another project.
    """
    try:
        _git(package, "ls-files", "--error-unmatch", Path(__file__).relative_to(PACKAGE))
        return _git(package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def without_git_variables() -> dict[str, str]:
    """The environment without Git's variables, which hooks inherit and which name the repository of the hook."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def _git(folder: Path, *words: object) -> str:
    command = ["git", "-C", str(folder), "--no-optional-locks", *map(str, words)]
    environment = without_git_variables()
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S, env=environment)
    return finished.stdout.strip()
