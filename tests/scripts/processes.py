"""Runs scripts as a user does."""

import subprocess
import sys

from tests.end_to_end.commands import ROOT


def run_script(script: str, *flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / script, *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)
