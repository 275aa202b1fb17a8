"""--mode=evaluate and scripts/evaluate_images.py, on a run that the command line trained and on made-up sets."""

import dataclasses
import json
import shutil
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import UserError
from ddpm_jax.commands import cli
from ddpm_jax.commands.evaluate import evaluate_bound, labels_to_draw
from ddpm_jax.config.sections import Data
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.data.sources.digits import load_digits
from ddpm_jax.evaluation.features import open_extractor
from ddpm_jax.evaluation.results import Row, curves_that_compare
from ddpm_jax.evaluation.statistics import compare, load_statistics, measure, save_statistics
from ddpm_jax.generation.pixel_file import PixelFile
from tests.end_to_end.commands import RECIPE, ROOT, scalars
from tests.training.toy import DISCS, config_with

pytestmark = pytest.mark.xdist_group("evaluate")  # They share a run.
PIXELS = ("--config.evaluate.features=pixels", "--config.evaluate.count=40")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    options = ["--config.log.preview_every=0", "--config.log.validate_every=0", "--config.train.steps=4"]
    options += [f"--config.data.cache={workdir.parent}/cache", "--config.evaluate.every=2"]
    options += ["--config.evaluate.light_count=12", "--config.evaluate.light_sampler=ddim:2", PIXELS[0]]
    assert cli.main(["main.py", RECIPE, f"--workdir={workdir}", *options]) == 0
    return workdir


def evaluate(workdir, *flags) -> int:
    return cli.main(["main.py", "--mode=evaluate", f"--workdir={workdir}", *PIXELS, *flags])


def test_a_few_images_are_measured_while_training(workdir):
    assert list(scalars(workdir, "evaluation/FID-pixels")) == [2, 4]
    assert 0 <= scalars(workdir, "evaluation/recall")[4] <= 1


def test_samplers_are_measured_once_and_compared(workdir, capsys):
    assert evaluate(workdir, "--config.evaluate.samplers=ddim:2,ddim:4") == 0
    folder = workdir / "evaluation"
    results = json.loads((folder / "4.json").read_text())
    assert [name.rpartition("-")[0] for name in results] == ["ddim-2steps-seed0-n40", "ddim-4steps-seed0-n40"]
    result = next(iter(results.values()))
    drawn = result["protocol"]["drawn"]
    assert (drawn["images"], drawn["steps"], drawn["training_step"], drawn["ema"]) == (40, 2, 4, True)
    assert result["protocol"]["real"]["images"] == 1797 and result["inception_score_mean"] is None
    assert (folder / "fid-by-sampling-steps.png").stat().st_size > 1000
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    printed, said = capsys.readouterr()
    assert f"{result['fid']:.4g}" in printed and "FID-pixels" in printed and "1797 of digits" not in printed
    assert "40 drawn images are no more than the 64 dimensions" in said
    for name, figures in results.items():
        plain = name.rpartition("-")[0]
        (curve,) = (folder / "tensorboard").glob(f"{plain}-*")
        assert scalars(curve, f"evaluation-{plain}/FID-pixels")[4] == pytest.approx(figures["fid"], rel=1e-6)
    # The figure is that of the very images that --mode=sample draws.
    sampling = ["--config.sample.sampler=ddim", "--config.sample.steps=2", "--config.sample.count=40"]
    assert cli.main(["main.py", "--mode=sample", f"--workdir={workdir}", *sampling]) == 0
    (samples,) = (workdir / "samples").glob("4-ddim-2steps-*/samples.npz")
    extractor = open_extractor("pixels", None)
    real, fake = (
        measure(extractor, x, "", limit=10_000) for x in (load_digits(Data()).decoded, np.load(samples)["arr_0"])
    )
    assert compare(real, fake)["fid"] == pytest.approx(result["fid"], rel=1e-9)
    assert evaluate(workdir, "--config.evaluate.samplers=ddim:2") == 0
    assert "ddim-2steps-seed0-n40 of step 4 was measured before" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["classes", "attributes"])
def test_conditional_models_draw_with_the_labels_of_the_data(kind, tmp_path):
    labels = np.array([0, 2, 2, 2]) if kind == "classes" else np.eye(3, dtype=np.uint8)[[0, 2, 2, 2]]
    dataset = Dataset(np.zeros((4, 8, 8, 1), np.uint8), labels, ("a", "b", "c"))
    config = config_with(model={kind: 3}, sample={"count": 10})
    drawn = labels_to_draw(config, tmp_path, dataset)
    for whole in (drawn[:4], drawn[4:8]):
        np.testing.assert_array_equal(np.sort(whole, axis=0), np.sort(labels, axis=0))
    assert len(drawn) == 10
    np.testing.assert_array_equal(drawn, labels_to_draw(config, tmp_path, dataset))


def test_a_broken_off_evaluation_goes_on(workdir, monkeypatch, capsys):
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
    assert "Going on after 24 images" in capsys.readouterr().err
    assert json.loads(path.read_text())[name] == expected


def test_all_checkpoints_are_measured_and_the_bound_is_drawn(workdir):
    flags = ("--config.evaluate.every_checkpoint=True", "--config.evaluate.samplers=ddim:2")
    assert evaluate(workdir, *flags, "--config.evaluate.bound_images=5") == 0
    folder = workdir / "evaluation"
    steps = sorted(int(path.stem) for path in folder.glob("*.json"))
    assert steps == [2, 4] and (folder / "fid-by-training-steps.png").exists()
    results = json.loads((folder / "2.json").read_text())
    bound = next(result for name, result in results.items() if name.startswith("bound"))
    # A curve by training step is one in TensorBoard, too.
    (curve,) = (folder / "tensorboard").glob("ddim-2steps-seed0-n40-*")
    assert list(scalars(curve, "evaluation-ddim-2steps-seed0-n40/FID-pixels")) == [2, 4]
    assert len(bound["L_by_t"]) == 8 and bound["L_by_t"][0] == bound["L_0"]
    parts = bound["L_0"] + bound["L_1_to_T-1"] + bound["L_T"]
    assert bound["bits_per_dim"] == pytest.approx(parts, rel=1e-6) and len(list(folder.glob("2-bound-*.png"))) == 1


BOUNDS = [{}, {"percentile": 0.9}, {"percentile_max": 2.0}, {"threshold": "clip"}]
BOUNDS += [{"seed": 1}, {"ema": False}, {"variance": "fixed_small"}]


def test_a_bound_is_measured_once_for_each_of_the_settings_that_it_depends_on(tmp_path, monkeypatch):
    measured = []

    def bound_of(config, params, dataset, rows):
        measured.append((config.sample, dataset is others))
        return np.ones(2), np.ones((2, 3)), np.ones(2)

    monkeypatch.setattr("ddpm_jax.commands.evaluate.bound_of", bound_of)
    others = DISCS._replace(images=255 - np.asarray(DISCS.images))
    asked = [(config_with(sample={"threshold": "dynamic"} | fields), DISCS) for fields in BOUNDS]
    asked.append((asked[0][0], others))
    for _ in range(2):  # The second time all are found.
        for config, dataset in asked:
            evaluate_bound(config, tmp_path, 7, {"a": np.ones(3)}, dataset, np.arange(2))
    assert measured == [(config.sample, dataset is others) for config, dataset in asked]


def test_a_damaged_checkpoint_is_named_and_passed_over(workdir, tmp_path, capsys):
    shutil.copytree(workdir, tmp_path / "run")
    damaged = next((tmp_path / "run" / "checkpoints" / "2" / "ema").rglob("d/*"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    shutil.rmtree(tmp_path / "run" / "evaluation")
    flags = ("--config.evaluate.every_checkpoint=True", "--config.evaluate.samplers=ddim:2")
    assert evaluate(tmp_path / "run", *flags) == 0
    assert "Step 2 is passed over: " in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run" / "evaluation").glob("*.json")] == ["4.json"]


def result_of(fid: float, **drawn) -> dict:
    protocol = {
        "distance": "FID",
        "real": {"from": "a.npz", "images": 9, "identity": "0"},
        "neighbours": drawn.pop("k"),
    }
    return {"fid": fid, "protocol": {**protocol, "drawn": {"images": 5, "training_step": 1, **drawn}}}


def test_charts_part_what_does_not_compare_and_drop_nothing():
    rows = [
        Row(1, f"ddim-{steps}steps-seed0-n{images}-0", result_of(float(fid), steps=steps, images=images, k=k))
        for fid, (images, k, steps) in enumerate(product((5, 6), (10, 20), (2, 4)))
    ]
    charts = curves_that_compare(rows, "steps")
    assert [title.split(" against ")[0] for title in charts] == ["FID of 5 images", "FID of 6 images"]
    for curves in charts.values():
        assert len(curves) == 2 and all([x for x, _ in points] == [2, 4] for points in curves.values())
    assert sorted(y for curves in charts.values() for points in curves.values() for _, y in points) == list(range(8))
    assert curves_that_compare(rows, "training_step") == {}


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
        (["--config.sample.checkpoint=3"], "keeps no checkpoint of step 3"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(workdir, tmp_path, capsys, flags, words):
    np.savez(tmp_path / "other.npz", mu=np.zeros(9), sigma=np.eye(9))
    capsys.readouterr()
    assert evaluate(workdir, *(flag.replace("OTHER", str(tmp_path / "other.npz")) for flag in flags)) == 2
    assert words in capsys.readouterr().err


def test_statistics_are_kept_and_read_as_pytorch_fid_has_them(tmp_path, draw):
    extractor = open_extractor("pixels", None)
    images = draw.integers(0, 256, (60, 3, 3, 1), dtype=np.uint8)
    statistics = measure(extractor, images, "", limit=20)
    save_statistics(tmp_path / "own.npz", statistics)
    again = load_statistics(tmp_path / "own.npz", "pixels")
    np.testing.assert_array_equal(again.moments.covariance, statistics.moments.covariance)
    np.testing.assert_array_equal(again.subset, statistics.subset)
    assert len(statistics.subset) == 20 and again.moments.images == 60
    np.savez(tmp_path / "theirs.npz", mu=statistics.moments.mean, sigma=statistics.moments.covariance)
    figures = compare(load_statistics(tmp_path / "theirs.npz", "pixels"), statistics)
    assert figures["fid"] == pytest.approx(0.0, abs=1e-9) and figures["precision"] is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": np.zeros(3)}, "expected mu and sigma, as pytorch-fid writes"),
        ({"mu": np.zeros(3), "sigma": np.eye(2)}, "are no mean and covariance"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "are no mean and covariance"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "mu holds what is no number, or one that is not finite"),
        ({"mu": np.array(["a", "b"]), "sigma": np.eye(2)}, "mu holds what is no number"),
        ({"mu": np.full(3, 1e200), "sigma": np.eye(3)}, "mu holds .* beyond 1e"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 5.0], [5.0, 1.0]])}, "without negative variances"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "count": np.array(-5)}, "count=-5 is no number of images"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "count": np.array("abc")}, "count=abc is no number of images"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "score": np.array([np.nan, 1.0])}, "score holds"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "features": np.zeros((5, 3))}, "other dimensions than mu"),
        ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "without negative variances"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [0.0, 1.0]])}, "must be symmetric"),
    ],
)
def test_statistics_that_are_none_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=words):
        load_statistics(tmp_path / "a.npz", "pixels")


def test_damaged_statistics_and_other_weights_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3))
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    np.save(tmp_path / "c.npy", np.zeros(3))
    (tmp_path / "c.npy").rename(tmp_path / "c.npz")
    for name in "bc":
        with pytest.raises(UserError, match="holds no statistics"):
            load_statistics(tmp_path / f"{name}.npz", "pixels")
    own = load_statistics(tmp_path / "a.npz", "inception-64")
    assert own.moments.images is None
    one, other = (dataclasses.replace(own, weights=weights) for weights in ("1", "2"))
    with pytest.raises(UserError, match="of other weights"):
        compare(one, other)


def script(*argv: object) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "scripts" / "evaluate_images.py", *map(str, argv), "--features=pixels"]
    return subprocess.run(command, capture_output=True, text=True)


def test_sets_of_images_are_compared_whatever_holds_them(tmp_path, draw):
    images = draw.integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "folder" / f"{i:02d}.png")
    np.savez(tmp_path / "array.npz", images)
    done = script(tmp_path / "folder", tmp_path / "array.npz", "--json", f"--save={tmp_path}/kept.npz")
    figures = json.loads(done.stdout)
    assert figures["fid"] == pytest.approx(0.0, abs=1e-9) and figures["precision"] == 1.0
    assert figures["protocol"]["fake"]["images"] == 30 and figures["inception_score_mean"] is None
    keys = {"fid", "kid_mean", "kid_std", "inception_score_mean", "inception_score_std", "precision", "recall"}
    assert figures.keys() == keys | {"density", "coverage", "protocol"}
    done = script(tmp_path / "kept.npz", tmp_path / "array.npz")
    assert "FID-pixels" in done.stdout and "30 images of" in done.stdout
    Image.fromarray(images[0, :3]).save(tmp_path / "folder" / "99.png")
    done = script(tmp_path / "folder", tmp_path / "array.npz")
    assert done.returncode == 2 and "99.png is 4x3, the first image is 4x4; expected one size" in done.stderr
    np.savez(tmp_path / "one.npz", images[:1])
    done = script(tmp_path / "array.npz", tmp_path / "one.npz")
    assert done.returncode == 2 and "1 image(s) have no covariance" in done.stderr
    done = script(tmp_path / "array.npz", tmp_path / "nothing")
    assert done.returncode == 2 and "does not exist; give a folder" in done.stderr
    np.savez(tmp_path / "small.npz", images[:, :2])
    done = script(tmp_path / "array.npz", tmp_path / "small.npz")
    assert done.returncode == 2 and "pixels of 48 and 24 dimensions cannot be compared" in done.stderr
    done = script(tmp_path / "array.npz", tmp_path / "nothing", f"--save={tmp_path}/none.npz")
    assert done.returncode == 2 and "array.npz:" not in done.stderr and not (tmp_path / "none.npz").exists()


def test_grey_images_in_three_colours_are_one_number_a_pixel(draw):
    images = draw.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
    one = measure(open_extractor("pixels", None), images, "", limit=20)
    other = measure(open_extractor("pixels", None, grey=True), np.repeat(images, 3, axis=-1), "", limit=20)
    assert compare(one, other)["fid"] == pytest.approx(0.0, abs=1e-9)
