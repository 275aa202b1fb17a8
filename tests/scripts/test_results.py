"""scripts/results.py, which records runs and renders docs/results.md."""

import dataclasses
import json
import re
import shlex
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.commands.cli import parse_flags
from ddpm_jax.config import Config, config_of, load_recipe, override
from ddpm_jax.data.dataset import Identity, Traits
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.results import add_result
from ddpm_jax.generation.guides import with_guide_step
from ddpm_jax.generation.requests import sample_name
from ddpm_jax.reporting.images import save_png
from ddpm_jax.reporting.writer import TensorBoard
from ddpm_jax.workdir import Progress, Segment, acquire, write_progress
from scripts import results
from scripts.reproduction import record
from scripts.reproduction.page import page, table
from scripts.reproduction.record import add, loss_curves, read_records, record_of, training_fields
from tests.end_to_end.commands import ROOT

DIGITS = "configs/digits.py"


def configured(recipe: str, *flags: str) -> Config:
    return config_of(override(load_recipe(str(ROOT / recipe)), [f"--config.{flag}" for flag in flags]))


def trained(workdir: Path, config: Config, command: str, *ends: int) -> Path:
    """A workdir as commands leave it that trained up to each of these steps, the first of them `command`."""
    acquire(workdir, config, Identity(Traits(1797, (), 0), 0, None))
    starts = (0, *ends[:-1])
    segments = [
        Segment(command if not start else "main.py", f"c{start}", "2 x tpu", "0.12.0", start, end, 1800.0)
        for start, end in zip(starts, ends, strict=True)
    ]
    write_progress(workdir, Progress(ends[-1], {}, segments))
    return workdir


def measure(
    workdir: Path, step: int, fid: float, origin: str = "digits", name: str = "ddim-50steps-seed0-n500", **drawn
) -> None:
    real = {"from": origin, "images": 1797, "identity": "0", "split": "training"}
    drawn = {"images": 500, "training_step": step, "parameters_crc32": 0, "steps": 50, "sampler": "ddim", **drawn}
    protocol = {"distance": "FID-pixels", "features": "pixels", "real": real, "drawn": drawn}
    add_result(workdir / "evaluation", step, name, {"fid": fid, "protocol": protocol})


def named(config: Config, **fields) -> str:
    """The name of samples of a run with these fields of `sample`, as commands call them."""
    config = dataclasses.replace(config, sample=dataclasses.replace(config.sample, **fields))
    return sample_name(with_guide_step(config, SimpleNamespace(guide_step=300)), 9, 16, b"pixels")


def draw_samples(workdir: Path, name: str, *pictures: str, side: int = 8) -> None:
    folder = workdir / "samples" / name
    folder.mkdir(parents=True)
    for each in pictures:
        save_png(np.random.default_rng(0).integers(0, 256, (side, side, 1), dtype=np.uint8), folder / f"{each}.png")


@pytest.fixture
def docs(tmp_path) -> Path:
    (tmp_path / "docs").mkdir()
    return tmp_path / "docs"


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of the whole recipe of digits, with results of two steps and samples."""
    command = f"main.py --config={ROOT}/configs/digits.py --workdir=x"
    workdir = trained(tmp_path / "run", configured(DIGITS), command, 400, 900)
    measure(workdir, 500, 0.5)
    measure(workdir, 900, 0.25)
    draw_samples(workdir, "900-ddim", "grid", "strip")
    return workdir


def test_a_chart_shows_the_losses_of_a_run_that_logged_them(docs, run):
    with closing(TensorBoard(run, None)) as board:
        for step in (1, 2, 8):
            board.scalars(step, {"train/loss": 1.0 / step, "validation/loss_ema": 2.0 / step, "speed/steps": 1.0})
    expected = {"train/loss": [(1, 1.0), (2, 0.5), (8, 0.125)], "validation/loss_ema": [(1, 2.0), (2, 1.0), (8, 0.25)]}
    assert loss_curves(run) == expected
    add(run, "mine", docs)
    assert "![Losses of mine](pictures/results/mine-loss.png)" in page(docs)
    with Image.open(docs / "pictures" / "results" / "mine-loss.png") as chart:
        assert np.asarray(chart.convert("L")).std() > 5


def row_of(text: str, recipe: str) -> str:
    (row,) = re.findall(rf"^\| \[{recipe}\].*$", text, re.MULTILINE)
    return row


def test_the_committed_page_is_rendered_from_the_committed_records_and_shows_their_pictures():
    docs = ROOT / "docs"
    assert (docs / "results.md").read_text() == page(docs), "run: python scripts/results.py render"
    shown = {name: known.pictures + ["loss"] * known.losses for name, known in read_records(docs).items()}
    expected = {f"{name}-{each}.png" for name, pictures in shown.items() for each in pictures}
    assert {path.name for path in (docs / "pictures" / "results").glob("*")} == expected


def test_every_recipe_is_listed_and_without_a_run_is_not_reproduced(docs):
    text = page(docs)
    for path in (ROOT / "configs").glob("*.py"):
        assert row_of(text, path.stem).split("|")[2].strip() == "no"


def test_a_run_of_the_whole_recipe_reproduces_it(docs, run):
    add(run, "whole-run", docs, note="Images: UCI (CC BY 4.0).")
    text = page(docs)
    statuses = re.findall(r"^\| \[.+?\| (yes|in part|no)\b", text, re.MULTILINE)
    assert statuses == ["yes"] + ["no"] * (len(list((ROOT / "configs").glob("*.py"))) - 1)
    assert row_of(text, "digits") == (
        "| [digits](../configs/digits.py) | yes | [whole-run](#whole-run) | FID-pixels 0.25 |"
    )
    assert "115,200: each of the 1,617 training images 71.2 times" in text
    assert "| 60.0 minutes |" in text and "| `c0`, then `c400` |" in text and "| 2 x tpu, jax 0.12.0 |" in text
    assert "\nImages: UCI (CC BY 4.0).\n" in text
    assert "![Samples of whole-run: strip](pictures/results/whole-run-strip.png)" in text
    assert [path.read_bytes() for path in sorted((docs / "pictures" / "results").iterdir())] == [
        (run / "samples" / "900-ddim" / f"{each}.png").read_bytes() for each in ("grid", "strip")
    ]
    add(run, "whole-run", docs)
    assert page(docs) == text, "The note stays."


@pytest.mark.parametrize(
    ("recipe", "flags", "reached", "words"),
    [
        (DIGITS, ["seed=3"], 900, "yes"),
        (DIGITS, ["train.sharding=fsdp", "log.every=1", "sample.steps=9"], 900, "yes"),
        (DIGITS, [], 450, "in part: stopped at step 450 of 900"),
        (DIGITS, ["train.steps=90"], 90, "in part: `train.steps` 90 instead of 900"),
        (
            DIGITS,
            ["train.steps=90", "model.channels=64", "model.multipliers=(1, 2, 2)"],
            45,
            "in part: `model.channels` 64 instead of 32, `model.multipliers` [1, 2, 2] instead of [1, 2], "
            "`train.steps` 90 instead of 900, stopped at step 45 of 90",
        ),
        ("configs/cifar10.py", ["data.path=/secret/cifar10.npz"], 800_000, "yes"),
        (
            "configs/cifar10.py",
            ["data.name=None", "data.path=c.npz"],
            9,
            "in part: `data.name` None instead of cifar10",
        ),
        ("configs/digits.py:consistency", [], 9000, "yes"),
        (
            "configs/digits.py:consistency",
            ["train.start_from=/secret/run"],
            9000,
            "in part: `train.start_from` run instead of pretrained:digits",
        ),
    ],
)
def test_differences_are_listed_and_the_command_trains_such_a_run(tmp_path, docs, recipe, flags, reached, words):
    config = configured(recipe, *flags)
    workdir = trained(tmp_path / "run", config, f"main.py --config={recipe} --workdir=x", reached)
    measure(workdir, reached, 0.25)
    add(workdir, "mine", docs)
    text = page(docs)
    (row,) = [line for line in text.splitlines() if "[mine](#mine)" in line]
    assert row.split(" | ")[1].startswith(words) and "secret" not in text
    (printed,) = re.findall(r"^    (python main\.py .* --workdir=runs/mine)$", text, re.MULTILINE)
    parsed = parse_flags(shlex.split(printed)[1:])
    again = config_of(override(load_recipe(str(ROOT / parsed.recipe)), parsed.overrides))
    assert training_fields(again) == training_fields(config)


@pytest.mark.parametrize(
    ("steps", "reached", "time"),
    [
        ([(0, 400), (400, 900)], 900, "60.0 minutes"),
        ([(0, 400), (500, 900)], 900, "at least 60.0 minutes"),
        ([(0, 400), (300, 900)], 900, "at least 60.0 minutes"),
        ([(0, 400), (400, 800)], 900, "at least 60.0 minutes"),
    ],
)
def test_the_training_time_is_a_lower_bound_where_a_kill_lost_some(docs, run, steps, reached, time):
    segments = [
        Segment(f"main.py --config={DIGITS} --workdir=x", None, "1 x cpu", "0.12.0", *ends, 1800.0) for ends in steps
    ]
    write_progress(run, Progress(reached, {}, segments))
    (run / "checkpoints" / str(reached)).mkdir(parents=True)
    (run / "checkpoints" / str(reached) / "SHA256SUMS").touch()
    add(run, "mine", docs)
    assert f"| training time | {time} |" in page(docs)


def test_a_changed_recipe_is_no_longer_reproduced(docs, run):
    add(run, "digits", docs)
    path = docs / "results" / "digits.json"
    older = json.loads(path.read_text())
    older["config"] |= {"optimizer.clip": 7.0, "optimizer.of_another_version": 1}
    path.write_text(json.dumps(older))
    assert "in part: `optimizer.clip` 7.0 instead of 1.0 |" in row_of(page(docs), "digits")


def test_records_hold_no_folders_of_the_machine_that_trained_the_run(tmp_path, docs):
    config = configured("configs/cifar10.py", "data.path=/secret/cifar10.npz", "data.cache=/secret/cache")
    config = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, weights="/secret/w"))
    workdir = trained(tmp_path / "run", config, "/secret/main.py --config=cifar10 --workdir=/secret/run", 9)
    name = named(config, guide="/secret/small", guidance=2.0)
    measure(workdir, 9, 0.25, "/secret/cifar10.npz", name, guide={"from": "/secret/small"})
    add(workdir, "mine", docs)
    text = (docs / "results" / "mine.json").read_text()
    assert "secret" not in text and text.count("cifar10.npz") == 2 and "guide-small+300-" in text


@pytest.mark.parametrize(
    "given",
    [
        {"task": "vary", "images": "/secret/a.png,/secret/b.png", "guide": "/secret/small", "guidance": 2.0},
        {"task": "inpaint", "images": "a.png", "mask": "/secret/mask.png", "resamples": 3},
        {"task": "vary", "images": "/secret" * 50},
        {"task": "condition", "originals": "/secret/photos", "mask": "secret"},
    ],
)
def test_records_hold_no_paths_of_images_that_samples_were_made_from(docs, run, given):
    name = named(configured(DIGITS), **given)
    assert "secret" in name
    draw_samples(run, name, "grid")
    add(run, "mine", docs, samples=name)
    text, known = (docs / "results" / "mine.json").read_text(), read_records(docs)["mine"]
    assert "secret" not in text and "secret" not in page(docs)
    assert known.samples and known.samples.startswith(f"9-{given['task']}-ddpm-") and known.samples[-9:] == name[-9:]
    assert known.pictures == ["grid"]


def test_only_the_newest_measured_step_is_recorded_and_entries_are_replaced_with_their_pictures(docs, run):
    add(run, "digits", docs)
    assert read_records(docs)["digits"].measured_step == 900
    (run / "samples" / "900-ddim" / "strip.png").unlink()
    measure(run, 950, 0.125)
    add(run, "digits", docs)
    known = read_records(docs)["digits"]
    assert known.measured_step == 950 and [result["fid"] for result in known.results.values()] == [0.125]
    assert [path.name for path in (docs / "pictures" / "results").iterdir()] == ["digits-grid.png"]


def test_of_several_folders_of_samples_one_is_named(docs, run):
    draw_samples(run, "900-ddpm", "grid")
    (run / "samples" / ".900-ddpm.lock").touch()
    with pytest.raises(UserError, match=r"several folders; name one in --samples: 900-ddim, 900-ddpm$"):
        add(run, "digits", docs)
    with pytest.raises(UserError, match=r"--samples=900-ddin is no folder in .*; did you mean 900-ddim"):
        add(run, "digits", docs, samples="900-ddin")
    add(run, "digits", docs, samples="900-ddpm")
    assert read_records(docs)["digits"].pictures == ["grid"]


def test_a_run_that_has_recorded_nothing_needs_its_recipe_and_says_what_is_unknown(docs, run):
    (run / "progress.json").unlink()
    (run / "checkpoints" / "900").mkdir(parents=True)
    (run / "checkpoints" / "900" / "SHA256SUMS").touch()
    for command in ("", "pytest -q", "main.py --workdir=x", "main.py '"):
        if command:
            write_progress(run, Progress(9, {}, [Segment(command, None, "1 x cpu", "0.12.0", 400, 900, 1.0)]))
        with pytest.raises(UserError, match="has not recorded its recipe; name it: --recipe="):
            add(run, "digits", docs)
    with pytest.raises(UserError, match="digitz.py is none of the recipes of this project; did you mean digits"):
        add(run, "digits", docs, recipe="configs/digitz.py")
    add(run, "digits", docs, recipe=DIGITS)
    assert "not recorded for the whole run" in page(docs) and "| yes |" in row_of(page(docs), "digits")


def test_a_picture_that_is_too_large_is_refused_before_anything_is_written(docs, run, monkeypatch):
    monkeypatch.setattr(record, "LARGEST_PICTURE", 99)
    with pytest.raises(UserError, match=r"grid.png of 900-ddim has .* bytes; expected at most 99. Sample fewer"):
        add(run, "digits", docs)
    assert not list(docs.iterdir())


def test_a_run_that_shows_nothing_is_refused_with_the_commands(tmp_path):
    workdir = trained(tmp_path / "run", configured(DIGITS), "main.py", 9)
    with pytest.raises(UserError, match="neither results nor samples; run one of: python main.py --mode=sample"):
        record_of(workdir)
    (workdir / "progress.json").unlink()
    with pytest.raises(UserError, match="has not been trained yet"):
        record_of(workdir)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"recipe": 1, "other": 2}'])
def test_a_damaged_record_is_refused(docs, content):
    (docs / "results").mkdir()
    (docs / "results" / "mine.json").write_text(content)
    with pytest.raises(UserError, match=r"mine.json is no record of a run .*; add the run again, or remove the file"):
        page(docs)


def test_bars_do_not_end_cells():
    assert table([["a", "b"], ["c|d", "e"]]) == "| a | b |\n|---|---|\n| c\\|d | e |\n"


def test_the_command_adds_a_run_to_a_page_and_refuses_mistakes(docs, run, monkeypatch, capsys):
    def command(*argv: object) -> None:
        monkeypatch.setattr("sys.argv", ["results.py", f"--docs={docs}", *map(str, argv)])
        results.main()

    command("add", run, "--name=digits")
    assert capsys.readouterr().out == f"Wrote {docs}/results.md\n"
    written = (docs / "results.md").read_text()
    assert written == page(docs) and "| yes |" in row_of(written, "digits")
    with pytest.raises(UserError, match="--name=Digits should be lower-case letters"):
        command("add", run, "--name=Digits")
    with pytest.raises(UserError, match="nothing holds no run"):
        command("add", run / "nothing", "--name=digits")
    assert (docs / "results.md").read_text() == written
