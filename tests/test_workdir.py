import dataclasses
import json
import logging

import numpy as np
import pytest

from ddpm_jax.config import Config, to_json
from ddpm_jax.data.dataset import Dataset, Identity, Traits, identity, traits
from ddpm_jax.data.fingerprints import Fingerprints
from ddpm_jax.errors import UserError
from ddpm_jax.workdir import (
    Progress,
    Segment,
    acquire,
    read_config,
    read_label_names,
    read_progress,
    refuse_another_run,
    wandb_id,
    write_progress,
)

DATA = Identity(Traits(4, (), 0), 0, None)


def with_steps(steps: int) -> Config:
    return dataclasses.replace(Config(), train=dataclasses.replace(Config().train, steps=steps))


def test_an_acquired_workdir_holds_its_configuration_and_label_names(tmp_path):
    acquire(tmp_path / "a" / "b", with_steps(7), Identity(Traits(5, ("cat", "Katze ü"), 1), 0, None))
    assert read_config(tmp_path / "a" / "b") == with_steps(7)
    assert read_label_names(tmp_path / "a" / "b") == ("cat", "Katze ü")


def test_the_length_may_change_and_the_change_is_logged(tmp_path, caplog):
    logging.getLogger("ddpm_jax").propagate = True
    acquire(tmp_path, with_steps(7), DATA)
    refuse_another_run(tmp_path, with_steps(9))
    with caplog.at_level(logging.INFO):
        acquire(tmp_path, with_steps(9), DATA)
    assert "train.steps was 7 and is now 9; the learning-rate schedule follows" in caplog.text
    assert read_config(tmp_path) == with_steps(9)


def test_a_run_does_not_continue_with_other_images(tmp_path):
    images = np.zeros((300, 2, 2, 1), np.uint8)
    labels = np.arange(300, dtype=np.int32) % 2
    before = identity(Dataset(images, labels, ("a", "b")))
    acquire(tmp_path, Config(), before)
    acquire(tmp_path, Config(), identity(Dataset(images.copy(), labels, ("a", "b"))))
    changes = {
        "300 images, now 299": Dataset(images[1:], labels[1:], ("a", "b")),
        "other images": Dataset(images + np.uint8(1), labels, ("a", "b")),
        "other labels": Dataset(images, 1 - labels, ("a", "b")),
        "labels named a, b, now a, c": Dataset(images, labels, ("a", "c")),
    }
    for words, changed in changes.items():
        with pytest.raises(UserError, match=rf"was trained on other data \({words}\); restore .*data.path"):
            acquire(tmp_path, Config(), identity(changed))
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(UserError, match="data.json cannot be read .*; remove it if the data is unchanged"):
        acquire(tmp_path, Config(), before)


def test_another_run_is_refused_and_nothing_is_overwritten(tmp_path):
    acquire(tmp_path, Config(), DATA)
    before = (tmp_path / "config.json").read_bytes()
    other = dataclasses.replace(Config(), seed=3, model=dataclasses.replace(Config().model, channels=64))
    with pytest.raises(UserError, match=r"seed was 0, now 3; model.channels was 128, now 64"):
        refuse_another_run(tmp_path, other)
    assert (tmp_path / "config.json").read_bytes() == before


def test_before_the_first_checkpoint_no_export_is_suggested(tmp_path):
    acquire(tmp_path, Config(), DATA)
    slower = dataclasses.replace(Config(), optimizer=dataclasses.replace(Config().optimizer, learning_rate=1e-5))
    with pytest.raises(UserError, match=r"now 1e-05\); choose another --workdir, or remove this one\.$"):
        refuse_another_run(tmp_path, slower)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(UserError, match="export_safetensors.py"):
        refuse_another_run(tmp_path, slower)


@pytest.mark.parametrize("name", ["out", "guide"])
def test_fields_of_single_commands_are_refused_while_training(tmp_path, name):
    config = dataclasses.replace(Config(), sample=dataclasses.replace(Config().sample, **{name: "mine"}))
    with pytest.raises(UserError, match=f"^sample.{name}=mine is for --mode=sample .*--config.sample.{name}=None"):
        refuse_another_run(tmp_path / "new", config)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]"])
def test_a_damaged_configuration_is_reported(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="config.json"):
        read_config(tmp_path)


def test_a_folder_without_a_run_and_a_file_as_workdir_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        read_config(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        refuse_another_run(tmp_path / "file", Config())


@pytest.mark.parametrize("content", ["{}", "[1]", "["])
def test_damaged_label_names_are_reported(tmp_path, content):
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(UserError, match="labels.json"):
        read_label_names(tmp_path)


@pytest.mark.parametrize("damaged", [None, "{", "\xff"])
def test_checkpoints_without_their_configuration_are_refused_with_the_command_that_restores_it(damaged, tmp_path):
    if damaged is not None:
        (tmp_path / "config.json").write_text(damaged, encoding="latin-1")
    for step in 9, 10:
        (tmp_path / f"checkpoints/{step}/config").mkdir(parents=True)
        (tmp_path / f"checkpoints/{step}/config/metadata").write_text(to_json(Config()))
    reason = "its config.json is missing" if damaged is None else r"config.json is not valid JSON \(.*\)"
    with pytest.raises(UserError, match=rf"{reason}; restore it: cp .*/10/config/metadata"):
        refuse_another_run(tmp_path, Config())


def test_the_images_may_move_but_must_be_the_same(tmp_path, package_log):
    images, labels = np.arange(80, dtype=np.uint8).reshape(20, 2, 2, 1), np.zeros(20, np.int32)
    here, there = (dataclasses.replace(Config(), data=dataclasses.replace(Config().data, path=p)) for p in ("a", "b"))
    acquire(tmp_path, here, identity(Dataset(images, labels, ())))
    acquire(tmp_path, there, identity(Dataset(images.copy(), labels, ())))
    assert "data.path was 'a' and is now 'b'" in package_log.text
    with pytest.raises(UserError, match="was trained on other data"):
        acquire(tmp_path, here, identity(Dataset(images[::-1].copy(), labels, ())))
    assert read_config(tmp_path) == there


def test_a_run_of_an_older_version_continues_by_what_it_recorded_and_then_records_all(tmp_path, package_log):
    images, labels = np.arange(1600, dtype=np.uint16).astype(np.uint8).reshape(400, 2, 2, 1), np.zeros(400, np.int32)
    dataset = Dataset(images, labels, ())
    acquire(tmp_path, Config(), identity(dataset))
    recorded = (tmp_path / "data.json").read_bytes()
    (tmp_path / "data.json").write_text(json.dumps({"images": 400, "crc32": traits(dataset).crc32}))
    with pytest.raises(UserError, match=r"other data \(other images or labels\)"):
        acquire(tmp_path, Config(), identity(dataset._replace(images=images[::-1].copy())))
    acquire(tmp_path, Config(), identity(dataset))
    assert "data.json covered few of the images; from now on it covers all of them" in package_log.text
    assert (tmp_path / "data.json").read_bytes() == recorded


def test_the_identity_is_read_back_also_under_its_former_name_and_from_an_older_cache(tmp_path):
    for unordered in (4, None):
        data = DATA._replace(fingerprints=Fingerprints("pixels", 3, unordered))
        acquire(tmp_path, Config(), data)
        file = tmp_path / "data.json"
        file.write_text(file.read_text().replace('"kind"', '"basis"'))
        acquire(tmp_path, Config(), data)
        with pytest.raises(UserError, match="trained on other data"):
            acquire(tmp_path, Config(), DATA._replace(fingerprints=Fingerprints("pixels", 5, unordered)))


@pytest.mark.parametrize("name", ["data.json", "labels.json"])
def test_damage_is_refused_before_anything_is_prepared(tmp_path, name):
    acquire(tmp_path, Config(), DATA)
    (tmp_path / name).write_text("{")
    with pytest.raises(UserError, match=f"{name} cannot be read"):
        refuse_another_run(tmp_path, Config())


def test_progress_is_at_most_the_step_from_which_a_run_resumes(tmp_path):
    lows = {"train/loss": [(1, 0.5), (4, 0.25)]}
    assert read_progress(tmp_path, 9) == Progress(9, {})
    acquire(tmp_path, Config(), DATA)
    (tmp_path / "progress.json").write_text(json.dumps({"monitored": 7, "lows": lows}))
    assert read_progress(tmp_path, 9) == Progress(7, lows), "a run of an older version, without segments"
    write_progress(tmp_path, Progress(7, lows))
    assert read_progress(tmp_path, 9) == Progress(7, lows)
    assert read_progress(tmp_path, 5) == Progress(5, lows)


def test_segments_are_kept_whatever_the_step_from_which_a_run_resumes(tmp_path):
    acquire(tmp_path, Config(), DATA)
    segments = (
        Segment("main.py --workdir='a b'", None, "1 x ü", "0.12.0", 0, 7, 1.5),
        Segment("main.py", "0a1b-dirty", "2 x tpu", "0.12.1", 5, 9, 2.0),
    )
    write_progress(tmp_path, Progress(7, {}, segments))
    assert read_progress(tmp_path, 3) == Progress(3, {}, segments)


def test_a_workdir_that_was_moved_during_training_is_reported(tmp_path):
    acquire(tmp_path / "run", Config(), DATA)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="run was moved or removed during training"):
        write_progress(tmp_path / "run", Progress(7, {}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        '{"monitored": 3}',
        '{"monitored": Infinity, "lows": {}}',
        '{"monitored": 3, "lows": {"a": 1}}',
        "\xff",
    ],
)
def test_damaged_progress_loses_only_the_lowest_values(tmp_path, package_log, content):
    (tmp_path / "progress.json").write_text(content, encoding="latin-1")
    assert read_progress(tmp_path, 7) == Progress(7, {})
    assert "progress.json cannot be read" in package_log.text


LOWS = {"train/loss": [(1, 0.5), (4, 0.25)]}
SEGMENT = Segment("main.py", None, "1 x cpu", "0.12.0", 0, 3, 1.5)


@pytest.mark.parametrize("segments", [None, [1], [{}], [SEGMENT._asdict() | {"end": "late"}]])
def test_damaged_segments_lose_only_the_training_times(tmp_path, package_log, segments):
    (tmp_path / "progress.json").write_text(json.dumps({"monitored": 3, "lows": LOWS, "segments": segments}))
    assert read_progress(tmp_path, 7) == Progress(3, LOWS)
    assert "The segments in" in package_log.text and "the lowest values" not in package_log.text


def test_segments_are_read_without_what_a_later_version_has_added(tmp_path, package_log):
    segments = [SEGMENT._asdict() | {"energy_joules": 7.0}]
    (tmp_path / "progress.json").write_text(json.dumps({"monitored": 3, "lows": LOWS, "segments": segments}))
    assert read_progress(tmp_path, 7) == Progress(3, LOWS, (SEGMENT,))
    assert not package_log.text


def test_runs_of_the_same_name_have_different_wandb_ids(tmp_path):
    a, b = tmp_path / "a" / "run", tmp_path / "b" / "run"
    for folder in (a, b):
        folder.mkdir(parents=True)
    assert wandb_id(a) != wandb_id(b)
    assert wandb_id(a) == wandb_id(a)
    (a / "wandb").mkdir()
    (a / "wandb.json").unlink()
    assert wandb_id(a) == "run"  # As older versions called it.
    (b / "wandb.json").write_text("{}")
    with pytest.raises(UserError, match=r"wandb.json cannot be read .*; remove it"):
        wandb_id(b)
