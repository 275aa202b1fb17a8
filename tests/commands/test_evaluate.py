"""--mode=evaluate on a run that the command line trained."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from ddpm_jax.commands import cli
from ddpm_jax.commands.evaluate import measured_configs, with_fields
from ddpm_jax.commands.evaluation_setup import open_setup
from ddpm_jax.config.sections import Data
from ddpm_jax.data.sources.digits import load_digits
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features import open_extractor
from ddpm_jax.evaluation.statistics import compare, measure
from ddpm_jax.generation.pixel_file import PixelFile
from ddpm_jax.workdir import read_config
from tests.end_to_end.commands import RECIPE, scalars

pytestmark = pytest.mark.xdist_group("evaluate")  # They share a run.
PIXELS = ("--config.evaluate.features=pixels", "--config.evaluate.count=40")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    options = ["--config.log.preview_every=0", "--config.log.validate_every=0", "--config.train.steps=4"]
    options += [f"--config.data.cache={workdir.parent}/cache", "--config.evaluate.every=2"]
    options += [
        "--config.optimizer.ema_snapshots=1",
        "--config.evaluate.light_count=12",
        "--config.evaluate.light_sampler=ddim:2",
        PIXELS[0],
    ]
    assert cli.main(["main.py", RECIPE, f"--workdir={workdir}", *options]) == 0
    return workdir


def evaluate(workdir, *flags) -> int:
    return cli.main(["main.py", "--mode=evaluate", f"--workdir={workdir}", *PIXELS, *flags])


def test_a_few_samples_are_measured_during_training(workdir):
    assert list(scalars(workdir, "evaluation/FID-pixels")) == [2, 4]
    assert 0 <= scalars(workdir, "evaluation/recall")[4] <= 1


def test_each_sampler_is_measured_once_on_the_images_that_mode_sample_generates(workdir, capsys):
    assert evaluate(workdir, "--config.evaluate.samplers=ddim:2,ddim:4") == 0
    folder = workdir / "evaluation"
    results = json.loads((folder / "4.json").read_text())
    assert [name.rpartition("-")[0] for name in results] == [
        "ddim-2steps-trailing-seed0-n40",
        "ddim-4steps-trailing-seed0-n40",
    ]
    result = next(iter(results.values()))
    drawn = result["protocol"]["drawn"]
    assert (drawn["images"], drawn["steps"], drawn["training_step"], drawn["ema"]) == (40, 2, 4, True)
    assert result["protocol"]["real"]["images"] == 1797 and result["inception_score_mean"] is None
    assert (folder / "fid-by-sampling-steps.png").stat().st_size > 1000
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    printed, logged = capsys.readouterr()
    assert f"{result['fid']:.4g}" in printed and "FID-pixels" in printed and "1797 of digits" not in printed
    assert "40 generated images for features of 64 dimensions" in logged
    for name, metrics in results.items():
        plain = name.rpartition("-")[0]
        (curve,) = (folder / "tensorboard").glob(f"{plain}-*")
        assert scalars(curve, f"evaluation-{plain}/FID-pixels")[4] == pytest.approx(metrics["fid"], rel=1e-6)
    sampling = ["--config.sample.sampler=ddim", "--config.sample.steps=2", "--config.sample.count=40"]
    assert cli.main(["main.py", "--mode=sample", f"--workdir={workdir}", *sampling]) == 0
    (samples,) = (workdir / "samples").glob("4-ddim-2steps-*/samples.npz")
    extractor = open_extractor("pixels", None)
    real, fake = (
        measure(extractor, x, "", limit=10_000) for x in (load_digits(Data()).decoded, np.load(samples)["arr_0"])
    )
    assert compare(real, fake)["fid"] == pytest.approx(result["fid"], rel=1e-9)
    assert evaluate(workdir, "--config.evaluate.samplers=ddim:2") == 0
    assert "ddim-2steps-trailing-seed0-n40 of step 4 was measured before" in capsys.readouterr().err


def test_an_interrupted_evaluation_resumes_with_the_same_result(workdir, monkeypatch, capsys):
    flags = ("--config.sample.sampler=ddim", "--config.sample.steps=3", "--config.sample.batch_size=8")
    assert evaluate(workdir, *flags) == 0
    path = workdir / "evaluation" / "4.json"
    results = json.loads(path.read_text())
    (name,) = (name for name in results if name.startswith("ddim-3steps"))
    expected = results.pop(name)
    path.write_text(json.dumps(results))
    append = PixelFile.append

    def interrupted(self, images):
        append(self, images)
        if self.count > 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(PixelFile, "append", interrupted)
    assert evaluate(workdir, *flags) == 130
    monkeypatch.undo()
    assert evaluate(workdir, *flags) == 0
    assert "Resuming after 24 images" in capsys.readouterr().err
    assert json.loads(path.read_text())[name] == expected


def test_all_checkpoints_are_measured_and_the_terms_of_the_bound_add_up(workdir):
    flags = ("--config.evaluate.every_checkpoint=True", "--config.evaluate.samplers=ddim:2")
    assert evaluate(workdir, *flags, "--config.evaluate.bound_images=5") == 0
    folder = workdir / "evaluation"
    steps = sorted(int(path.stem) for path in folder.glob("*.json"))
    assert steps == [2, 4] and (folder / "fid-by-training-steps.png").exists()
    results = json.loads((folder / "2.json").read_text())
    bound = next(result for name, result in results.items() if name.startswith("bound"))
    (curve,) = (folder / "tensorboard").glob("ddim-2steps-trailing-seed0-n40-*")
    assert list(scalars(curve, "evaluation-ddim-2steps-trailing-seed0-n40/FID-pixels")) == [2, 4]
    assert len(bound["L_by_t"]) == 8 and bound["L_by_t"][0] == bound["L_0"]
    total = bound["L_0"] + bound["L_1_to_T-1"] + bound["L_T"]
    assert bound["bits_per_dim"] == pytest.approx(total, rel=1e-6) and len(list(folder.glob("2-bound-*.png"))) == 1


def test_widths_of_the_ema_are_compared(workdir, capsys):
    flags = ("--config.evaluate.samplers=ddim:2", "--config.evaluate.ema_widths=(0.05,0.07)")
    assert evaluate(workdir, *flags, "--config.evaluate.bound_images=5") == 0
    printed, folder = capsys.readouterr().out, workdir / "evaluation"
    results = json.loads((folder / "4.json").read_text()).values()
    widths = [result["protocol"].get("drawn", result["protocol"]).get("ema_width") for result in results]
    assert widths.count(0.05) == widths.count(0.07) == 2  # The samples and the bound.
    assert "n40-ema_width-0.05-" in printed and (folder / "fid-by-ema-width.png").exists()


GUIDED = "--config.sample.guidance=2.0"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.evaluate.ema_widths=(0.05,0.2)"], "sample.ema_width=0.2 cannot be rebuilt at step 4"),
        (["--config.evaluate.ema_widths=(0.05,)", "--config.sample.checkpoint=9"], "has no intact snapshot of step 9"),
        ([GUIDED, "--config.sample.guide=checkpoint:3"], "guide=checkpoint:3: .* keeps no checkpoint of step 3"),
        ([GUIDED, "--config.sample.guide=checkpoint:4"], "guide=checkpoint:4: it is the model itself"),
        ([GUIDED, "--config.sample.guide=ema_width:0.01"], "guide=ema_width:0.01: sample.ema_width=0.01 cannot be"),
        (
            [GUIDED, "--config.sample.guide=ema_width:0.07", "--config.evaluate.ema_widths=(0.05,0.07)"],
            "guide=ema_width:0.07: it is the model itself",
        ),
    ],
)
def test_a_width_or_guide_that_cannot_be_used_is_refused_before_the_reference_is_measured(
    workdir, monkeypatch, capsys, flags, words
):
    monkeypatch.setattr("ddpm_jax.commands.evaluate.open_dataset", None)
    assert evaluate(workdir, *flags) == 2
    assert re.search(words, capsys.readouterr().err)


def test_checkpoints_without_a_snapshot_or_with_themselves_as_guide_are_skipped(workdir, tmp_path, package_log):
    config, run = read_config(workdir), tmp_path / "run"
    shutil.copytree(workdir, run)
    shutil.rmtree(run / "ema_snapshots" / "2")
    config = dataclasses.replace(
        config, evaluate=dataclasses.replace(config.evaluate, every_checkpoint=True, ema_widths=(0.05,))
    )
    assert [one.sample.checkpoint for one in measured_configs(config, run)] == [4]
    assert "Step 2 is skipped: " in package_log.text and "no intact snapshot of step 2" in package_log.text
    config = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, ema_widths=()))
    guided = with_fields(config, guide="checkpoint:4", guidance=2.0)
    assert [one.sample.checkpoint for one in measured_configs(guided, run)] == [2]
    shutil.rmtree(run / "checkpoints" / "2")
    with pytest.raises(UserError, match="No checkpoint of .* can be measured; the warnings above"):
        measured_configs(guided, run)


def test_the_first_process_decides_for_all_what_is_measured(workdir, monkeypatch):
    config, decided = with_fields(read_config(workdir), guide="checkpoint:4", guidance=2.0), [0]
    every = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, every_checkpoint=True))
    monkeypatch.setattr("jax.process_index", lambda: 1)
    monkeypatch.setattr("ddpm_jax.commands.evaluate.all_agreed", lambda own: own or decided)
    assert [one.sample.checkpoint for one in measured_configs(every, workdir)] == [2]
    decided.clear()
    with pytest.raises(UserError, match="cannot be measured; see the message of the first process"):
        measured_configs(config, workdir)


def test_the_newest_checkpoint_is_chosen_when_it_is_read(workdir, tmp_path, monkeypatch):
    """Training replaces checkpoints while the statistics of the reference are computed, which may take hours."""

    def open_setup_slowly(*arguments):
        if (tmp_path / "run" / "checkpoints" / "4").exists():
            shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
        return open_setup(*arguments)

    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evaluation")
    monkeypatch.setattr("ddpm_jax.commands.evaluate.open_setup", open_setup_slowly)
    assert evaluate(tmp_path / "run", "--config.evaluate.samplers=ddim:2") == 0
    assert [path.name for path in (tmp_path / "run" / "evaluation").glob("*.json")] == ["2.json"]


def test_a_damaged_checkpoint_is_skipped_with_a_warning(workdir, tmp_path, capsys):
    shutil.copytree(workdir, tmp_path / "run")
    damaged = next((tmp_path / "run" / "checkpoints" / "2" / "ema").rglob("d/*"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    shutil.rmtree(tmp_path / "run" / "evaluation")
    flags = ("--config.evaluate.every_checkpoint=True", "--config.evaluate.samplers=ddim:2")
    assert evaluate(tmp_path / "run", *flags) == 0
    assert "Step 2 is skipped: " in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run" / "evaluation").glob("*.json")] == ["4.json"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.evaluate.samplers=ddim:2,"], "evaluate.samplers='ddim:2,' holds an empty name"),
        (
            ["--config.evaluate.samplers=ddim:9"],
            "evaluate.samplers names 'ddim:9': sample.steps=9 exceeds diffusion.steps=8",
        ),
        (["--config.evaluate.count=1"], "evaluate.count=1 is out of range; expected 2 to 10000000"),
        (["--config.evaluate.weights=x"], "evaluate.weights=x has no effect with evaluate.features='pixels'"),
        (["--config.evaluate.features=inceptoin"], "evaluate.features='inceptoin' does not exist; did you mean"),
        (["--config.evaluate.reference=none.npz"], "none.npz holds no statistics (No such file"),
        (
            ["--config.evaluate.reference=OTHER"],
            "holds statistics of pixels with 9 dimensions; expected pixels with 64",
        ),
        (
            ["--config.evaluate.condition_split=test"],
            "evaluate.condition_split='test' has no effect with model.condition='none'",
        ),
        (["--config.sample.cascade=x"], "sample.cascade=x is for --mode=sample; leave it out"),
        (["--config.sample.checkpoint=3"], "keeps no checkpoint of step 3"),
        (
            ["--config.evaluate.ema_widths=(0.05,)", "--config.sample.ema_width=0.1"],
            "evaluate.ema_widths=(0.05,) replaces sample.ema_width=0.1; leave out one of them.",
        ),
        (["--config.evaluate.ema_widths=(0.05,)", "--config.sample.ema=False"], "(0.05,) replaces sample.ema=False;"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(workdir, tmp_path, capsys, flags, words):
    np.savez(tmp_path / "other.npz", mu=np.zeros(9), sigma=np.eye(9))
    capsys.readouterr()
    assert evaluate(workdir, *(flag.replace("OTHER", str(tmp_path / "other.npz")) for flag in flags)) == 2
    assert words in capsys.readouterr().err
