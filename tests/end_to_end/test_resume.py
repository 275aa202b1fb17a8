"""A run that is killed and restarted ends as one that was left alone, to the last bit."""

import signal
import time

import pytest

from ddpm_jax import load_run
from tests.end_to_end.commands import RECIPE, assert_same_bits, final_state, finish, kill_at, reported, start

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("resume")]  # They share a run.
LENGTH = (
    *("--config.train.steps=60", "--config.checkpoint.every=10", "--config.log.every=7"),
    *("--config.log.validate_every=5", "--config.log.preview_every=20", "--config.log.preview_samplers=ddim:4"),
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    code, printed = finish(start(RECIPE, f"--workdir={workdir}", *LENGTH))
    assert code == 0, printed
    return workdir


def test_killed_and_restarted_equals_undisturbed(undisturbed, tmp_path):
    command = (RECIPE, f"--workdir={tmp_path}/run", *LENGTH)
    code = kill_at(start(*command), tmp_path / "run", 20, signal.SIGKILL)
    assert code == -signal.SIGKILL
    saved = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdecimal()]
    assert 20 <= max(saved) < 60
    code, printed = finish(start(*command))
    assert code == 0 and "Resuming from step" in printed
    assert_same_bits(final_state(tmp_path / "run"), final_state(undisturbed))
    assert reported(tmp_path / "run") == reported(undisturbed)


def test_a_run_that_is_asked_to_stop_again_and_again_reports_what_an_undisturbed_one_does(undisturbed, tmp_path):
    command = (RECIPE, f"--workdir={tmp_path}/run", *LENGTH)
    for step in (10, 30, 50):
        code = kill_at(start(*command), tmp_path / "run", step, signal.SIGTERM)
        assert code == 128 + signal.SIGTERM
    code, printed = finish(start(*command))
    assert code == 0, printed
    assert_same_bits(final_state(tmp_path / "run"), final_state(undisturbed))
    assert reported(tmp_path / "run") == reported(undisturbed)


def test_a_run_at_an_address_goes_from_machine_to_machine(undisturbed, tmp_path, monkeypatch):
    """A file system stands in for a store."""
    there, address = tmp_path / "store/runs/x", f"--workdir=file://{tmp_path}/store/runs/x"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a"))
    process = start(RECIPE, address, *LENGTH)
    while not any((tmp_path / "a/ddpm_jax/copies").glob(f"*/{there.relative_to('/')}/checkpoints/20/SHA256SUMS")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code == 143, said
    reached = max(int(path.name) for path in (there / "checkpoints").iterdir())
    assert 20 <= reached < 60 and not (there / ".train.lock").exists()
    assert "Stopped by SIGTERM" in (there / "train.log").read_text()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    code, said = finish(start(RECIPE, address, *LENGTH))
    assert code == 0 and f"Resuming from step {reached}" in said and "/copies/" not in said, said
    assert_same_bits(final_state(there), final_state(undisturbed))
    assert reported(there) == reported(undisturbed)
    code, said = finish(start("--mode=sample", address, "--config.sample.count=4", "--config.sample.steps=5"))
    assert code == 0 and len(list((there / "samples").glob("*/images/*.png"))) == 4, said
    assert load_run(address.partition("=")[2]).step == 60
    assert not list((tmp_path / "b/ddpm_jax/copies").iterdir())


def test_a_finished_run_has_nothing_left_to_do_and_a_longer_one_goes_on(undisturbed):
    command = (RECIPE, f"--workdir={undisturbed}", *LENGTH)
    before = final_state(undisturbed)
    code, printed = finish(start(*command))
    assert code == 0, printed
    assert_same_bits(final_state(undisturbed), before)
    code, printed = finish(start(*command, "--config.train.steps=62"))
    assert code == 0 and "train.steps was 60 and is now 62" in printed
    assert int(final_state(undisturbed).step) == 62


def test_a_workdir_of_another_run_is_refused_untouched(undisturbed):
    files = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    code, printed = finish(start(RECIPE, f"--workdir={undisturbed}", *LENGTH, "--config.model.channels=16"))
    assert code == 2 and "model.channels was 8, now 16" in printed and len(printed.splitlines()) == 1
    changed = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    assert {p: t for p, t in changed.items() if p.name != "train.log"} == {
        p: t for p, t in files.items() if p.name != "train.log"
    }
