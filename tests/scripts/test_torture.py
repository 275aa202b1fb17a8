"""A short run of scripts/torture.py; docs/reliability.md has the results of a full one."""

import json

import pytest

from scripts.fault_injection.commands import leftovers
from scripts.fault_injection.damage import flip, truncate
from tests.scripts.processes import run_script


@pytest.mark.slow
def test_random_kills_of_the_preparation_of_data_lose_nothing(tmp_path):
    """Preparation starts processes of its own; tests/end_to_end/test_resume.py kills training."""
    done = run_script("torture.py", "storm", "--kills=3", "--works=prepare", f"--folder={tmp_path}/storm", "--json")
    assert done.returncode == 0, done.stderr
    (outcome,) = json.loads(done.stdout)["outcomes"]
    assert (outcome["fault"], outcome["times"], outcome["lost"]) == ("SIGKILL during prepare", 3, "")


def test_leftovers_are_found_and_damage_changes_files(tmp_path):
    for name in ("a.txt", ".b.lock", ".c.npz.partial", "7.orbax-checkpoint-tmp", "9.damaged"):
        (tmp_path / name).write_bytes(b"content")
    assert sorted(leftovers(tmp_path)) == [".b.lock", ".c.npz.partial", "7.orbax-checkpoint-tmp", "9.damaged"]
    flip(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == b"conuent"
    truncate(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == b"con"


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "mine").write_text("")
    done = run_script("torture.py", "storm", f"--folder={tmp_path}")
    assert done.returncode == 2 and "is not empty; choose a new one" in done.stderr
