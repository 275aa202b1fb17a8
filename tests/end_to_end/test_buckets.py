"""Runs whose workdir is in a bucket: killed and resumed, by one process and several, they end with the same bits."""

import signal
import time

import numpy as np
import pytest
from etils import epath

from ddpm_jax import load_run
from ddpm_jax.commands import cli
from ddpm_jax.runtime.urls import download, files_below, files_in, names_in
from ddpm_jax.training.checkpoint import checkpoint_steps
from tests.end_to_end.commands import (
    RECIPE,
    assert_same_bits,
    final_state,
    finish,
    kill_at,
    reported,
    start,
    start_job,
    train_undisturbed,
    wait_for_checkpoint,
)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("buckets")]  # They share a run and the emulator.
LENGTH = (
    *("--config.train.steps=20", "--config.checkpoint.every=10", "--config.log.every=7"),
    *("--config.log.validate_every=10", "--config.log.preview_every=20"),
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """An undisturbed run in a folder."""
    return train_undisturbed(tmp_path_factory.mktemp("runs") / "undisturbed", *LENGTH)


def test_a_run_in_a_bucket_is_killed_resumed_sampled_and_evaluated(undisturbed, bucket, tmp_path, capsys):
    command = (RECIPE, f"--workdir={bucket}", *LENGTH)
    assert kill_at(start(*command), bucket, 10, signal.SIGKILL) == -signal.SIGKILL
    code, printed = finish(start(*command))
    assert code == 0 and "Resuming from step" in printed and "names a job that did not end there" in printed, printed
    assert_same_bits(final_state(bucket), final_state(undisturbed))
    copy = tmp_path / "copy"
    download(files_below(bucket), bucket, copy)
    assert_same_bits(final_state(copy), final_state(undisturbed))  # As `gcloud storage cp` brings it.
    assert reported(copy) == reported(undisturbed)

    sampling = ("--config.sample.count=8", "--config.sample.sampler=ddim", "--config.sample.steps=4")
    measuring = ("--config.evaluate.count=8", "--config.evaluate.features=pixels", "--config.evaluate.bound_images=4")
    for workdir in (bucket, undisturbed):
        for mode, flags in {"sample": sampling, "evaluate": (*sampling[1:], *measuring)}.items():
            assert cli.main(["main.py", f"--mode={mode}", f"--workdir={workdir}", *flags]) == 0
    assert cli.main(["main.py", "--mode=plan", f"--workdir={bucket}"]) == 0
    (name,) = names_in(undisturbed / "samples")
    assert names_in(bucket / "samples") == [name]
    assert names_in(bucket / "samples" / name) == names_in(undisturbed / "samples" / name)
    for file in (f"samples/{name}/samples.npz", f"samples/{name}/grid.png", "evaluation/20.json"):
        assert (bucket / file).read_bytes() == (undisturbed / file).read_bytes()
    assert names_in(bucket / "evaluation") == names_in(undisturbed / "evaluation")
    assert "INFO Wrote" in (bucket / "evaluate.log").read_text()
    np.testing.assert_array_equal(load_run(str(bucket)).noise(2), load_run(undisturbed).noise(2))
    assert load_run(str(bucket)).step == 20


def test_an_interrupted_sample_set_goes_on_elsewhere(undisturbed, bucket, tmp_path, monkeypatch):
    for name in (name for name in files_in(undisturbed) if name.startswith("checkpoints/20") or "/" not in name):
        (bucket / name).write_bytes((undisturbed / name).read_bytes())
    many = ("--config.sample.count=200", "--config.sample.batch_size=2", "--config.sample.steps=8")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = start("--mode=sample", f"--workdir={bucket}", *many)
    while not any(path.stat().st_size for path in tmp_path.glob("*/.*.unfinished/pixels.u8")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    code, printed = finish(process)
    assert code == 143 and "of 200 images are on disk; the same command resumes" in printed, printed
    assert "Stopped by SIGTERM" in (bucket / "sample.log").read_text()
    code, printed = finish(start("--mode=sample", f"--workdir={bucket}", *many))
    assert code == 0 and "Resuming after" in printed, printed
    (folder,) = names_in(bucket / "samples")
    assert len(names_in(bucket / "samples" / folder / "images")) == 200


def test_two_processes_are_killed_and_resume_to_the_same_bits(bucket):
    length = (*LENGTH[:3], "--config.log.preview_every=0", "--config.train.sharding=fsdp")

    def start_both(workdir: epath.Path):
        return start_job(RECIPE, f"--workdir={workdir}", *length, processes=2, devices=2)

    for name in ("undisturbed", "killed"):
        jobs = start_both(bucket / name)
        if name == "killed":
            wait_for_checkpoint(jobs[0], bucket / name, 10)
            for job in jobs:
                job.kill()
                finish(job)
            jobs = start_both(bucket / name)
        ends = [finish(job) for job in jobs]
        assert [code for code, _ in ends] == [0, 0], ends
    assert "Resuming from step" in ends[0][1]
    assert_same_bits(final_state(bucket / "killed"), final_state(bucket / "undisturbed"))


def test_a_store_that_goes_away_is_one_line_and_nothing_is_lost(undisturbed, bucket, emulator, tmp_path, monkeypatch):
    # gcsfs would try again for half a minute.
    (tmp_path / "sitecustomize.py").write_text("import gcsfs.retry; gcsfs.retry.min = lambda *_: 0.05")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = (RECIPE, f"--workdir={bucket}", *LENGTH)
    process = start(*command)
    wait_for_checkpoint(process, bucket, 10)
    with emulator.unreachable():
        code, printed = finish(process)
    assert code == 3 and "Traceback" not in printed, printed
    assert f"{bucket}/checkpoints: a checkpoint could not be written (Cannot connect to host" in printed
    assert 10 in checkpoint_steps(bucket / "checkpoints")
    code, printed = finish(start(*command))
    assert code == 0 and "names a job that did not end there" in printed, printed
    assert_same_bits(final_state(bucket), final_state(undisturbed))


def test_of_two_jobs_the_newest_continues(bucket):
    # Long enough that the older job is stopped between two checkpoints.
    command = (RECIPE, f"--workdir={bucket}", "--config.train.steps=300", "--config.checkpoint.every=150", *LENGTH[2:])
    older = start(*command)
    wait_for_checkpoint(older, bucket, 150)
    older.send_signal(signal.SIGSTOP)  # It cannot end before the newer one has begun.
    newer = start(*command)
    code, printed = finish(newer)
    complete = final_state(bucket)
    older.send_signal(signal.SIGCONT)
    assert code == 0 and "names a job that did not end there" in printed, printed
    code, printed = finish(older)
    assert code == 2 and "another job has been at work there since; this one stops" in printed, printed
    assert "Traceback" not in printed
    assert complete.step == 300
    assert_same_bits(final_state(bucket), complete)
