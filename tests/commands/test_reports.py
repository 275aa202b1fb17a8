from functools import partial

import jax
import jax.numpy as jnp
import pytest

from ddpm_jax.commands.reports import Reports, begin_segment, describe
from ddpm_jax.commands.train import diverged
from ddpm_jax.config import Config, config_of
from ddpm_jax.errors import TrainingDiverged
from ddpm_jax.reporting.profile import Profile
from ddpm_jax.reporting.throughput import Throughput
from ddpm_jax.reporting.writer import TensorBoard
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.step import empty_metrics
from ddpm_jax.workdir import Progress, read_progress, write_config, write_progress
from tests.end_to_end.commands import scalars
from tests.training.toy import CONFIG, learner_and_step


def test_skipped_steps_are_counted_and_many_in_a_row_name_the_last_good_checkpoint(tmp_path, package_log):
    config = config_of({"train": {"max_bad_steps": 3}, "log": {"every": 1}})
    writer = TensorBoard(tmp_path / "run", 0)
    with Checkpoints(tmp_path) as checkpoints:
        services = writer, Throughput(8, 0), Profile(tmp_path, ())
        reports = Reports(config, *services, empty_metrics(), 4, partial(diverged, config, checkpoints))
        for step, streak in enumerate([0, 1, 2, 0, 1], start=1):
            reports.push(step, jnp.asarray(streak))
        reports.drain()
        assert scalars(tmp_path / "run", "optimizer/skipped_steps") == {1: 4, 2: 5, 3: 6, 4: 6, 5: 7}
        assert package_log.text.count("was skipped: its loss or gradient is not finite") == 3
        (tmp_path / "40").mkdir()
        (tmp_path / "40" / "SHA256SUMS").write_text("")
        for step, streak in enumerate([1, 2, 3], start=6):
            reports.push(step, jnp.asarray(streak))
        with pytest.raises(TrainingDiverged, match="at step 8: 3 losses .* last good checkpoint is step 40. Try a new"):
            reports.drain()
    writer.close()


@pytest.mark.parametrize(("images", "warned"), [(7, True), (8, False)])
def test_fewer_images_than_a_batch_are_warned_of(images, warned, tmp_path, package_log):
    state = learner_and_step(CONFIG)[1]
    describe(CONFIG, tmp_path / "run", state, images, held=2, start=0)
    assert f"Images      {images} to train on, 2 held out" in package_log.text
    assert (f"The number of images, {images}, is below data.batch_size=8" in package_log.text) == warned


def test_the_command_of_a_segment_can_be_written_whatever_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["main.py", "--config=configs/digits.py", "--workdir=a b\n\udcff"])
    segment = begin_segment(3)(7)
    assert segment.command == r"main.py --config=configs/digits.py '--workdir=a b\n\udcff'"
    assert (segment.start, segment.end) == (3, 7) and segment.devices.startswith(f"{jax.device_count()} x cpu, ")
    write_config(tmp_path, Config(), ())
    write_progress(tmp_path, Progress(7, {}, (segment,)))
    assert read_progress(tmp_path, 7).segments == (segment,)


def test_only_the_process_that_writes_the_segment_asks_for_the_commit(monkeypatch):
    asked = []
    monkeypatch.setattr("ddpm_jax.commands.reports.commit_of_code", lambda: asked.append(jax.process_index()) or "0a1b")
    for process, commit in ((0, "0a1b"), (1, None)):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert begin_segment(3)(7).commit == commit
    assert asked == [0]
