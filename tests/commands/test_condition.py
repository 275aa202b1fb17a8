"""--mode=sample --config.sample.task=condition, with networks of random parameters."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import load_run
from ddpm_jax.evaluation.conditional import restoration_metrics
from ddpm_jax.generation.labels import labels_if_set
from ddpm_jax.generation.pixel_file import PixelFile
from ddpm_jax.workdir import write_config
from tests.commands.sampled import assert_shows_inputs, newest, sample, sampled
from tests.data.pictures import write_digits
from tests.interop.toy import config, random_run

pytestmark = pytest.mark.xdist_group("conditions")  # They share runs.
FAST = {"sampler": "ddim", "steps": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_config(make(folder / "plain"), config(), ())
    random_run(folder / "sr", model={"condition": "low_resolution"}, degradation={"factor": 2})
    random_run(folder / "painter", model={"condition": "mask"})
    random_run(folder / "colour", data={"channels": 3, "source": "synthetic"}, model={"condition": "grey"})
    return folder


def make(folder):
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_digits(folder / "originals", 3)
    photo = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(photo).save(folder / "photo.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(folder / "right.png")
    Image.fromarray(mask * 0).save(folder / "black.png")
    return folder


def pixels(folder) -> np.ndarray:
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])
    return images if images.ndim == 4 else images[..., None]


def call(workdir, **options) -> np.ndarray:
    assert sample(workdir, task="condition", **FAST, **options) == 0
    return sampled(workdir)


def test_conditions_of_originals_are_those_of_training_and_can_be_used_again(runs, files, monkeypatch, capsys):
    options, originals = {"count": 4, "batch_size": 2}, pixels(files / "originals")
    interrupt_after(2, monkeypatch)
    assert sample(runs / "sr", task="condition", originals=files / "originals", **FAST, **options) == 130
    monkeypatch.undo()
    images, found = call(runs / "sr", originals=files / "originals", **options), newest(runs / "sr")
    logged, run = capsys.readouterr().err, load_run(runs / "sr")
    conditions, turn = run.conditions_of(originals), np.array([0, 1, 2, 0])
    np.testing.assert_array_equal(pixels(found / "conditions"), conditions)
    np.testing.assert_array_equal(images, run.sample(4, condition=conditions, batch_size=2, **FAST))
    assert (images[0] != images[3]).mean() > 0.8  # The same condition, other noise.
    # Rows of conditions, results and originals, each pixel enlarged eight times.
    rows = np.asarray(Image.open(found / "grid.png"))[2::66, 2:66:8]
    expected = [conditions[0, 0, :, 0].repeat(2), images[0, 0, :, 0], originals[0, 0, :, 0]]
    np.testing.assert_array_equal(rows[:3], expected)

    values = restoration_metrics(run.config, images, conditions[turn], originals[turn])
    metrics = json.loads((found / "metrics.json").read_text())
    assert metrics.pop("each") == {name: value.tolist() for name, value in values.items()}
    assert metrics == {"images": 4, **{name: value.mean() for name, value in values.items()}}
    assert "Resuming after 2 images" in logged
    numbers = re.search(r"PSNR (.+) dB, SSIM (.+) \(bicubic enlargement: (.+) dB, (.+)\), consistency (.+) dB;", logged)
    assert numbers and [float(each) for each in numbers.groups()] == pytest.approx(list(metrics.values())[1:], abs=0.01)

    np.testing.assert_array_equal(call(runs / "sr", images=found / "conditions", **options), images)
    assert newest(runs / "sr") != found and not (newest(runs / "sr") / "metrics.json").exists()


def test_fewer_results_than_images_are_those_of_the_first_images(runs, files, capsys):
    every = call(runs / "sr", originals=files / "originals", count=3)
    capsys.readouterr()
    np.testing.assert_array_equal(call(runs / "sr", originals=files / "originals", count=2), every[:2])
    warning = "Warning: sample.count=2 leaves out the last 1 images of sample.originals; raise it to use all."
    assert warning in capsys.readouterr().err
    found, originals = newest(runs / "sr"), pixels(files / "originals")
    conditions = pixels(found / "conditions")
    assert len(conditions) == 2
    both = {"images": found / "conditions", "originals": f"{files}/originals/0.png,{files}/originals/1.png"}
    np.testing.assert_array_equal(call(runs / "sr", **both, count=1), every[:1])
    values = restoration_metrics(load_run(runs / "sr").config, every[:1], conditions[:1], originals[:1])
    metrics = json.loads((newest(runs / "sr") / "metrics.json").read_text())
    assert metrics["each"] == {name: value.tolist() for name, value in values.items()}


def interrupt_after(count, monkeypatch):
    append = PixelFile.append

    def interrupted(self, images):
        append(self, images)
        if self.count == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(PixelFile, "append", interrupted)


def test_pixels_outside_the_mask_stay(runs, files):
    originals = pixels(files / "originals")
    images = call(runs / "painter", images=files / "originals", mask=files / "right.png", count=3)
    np.testing.assert_array_equal(images[:, :, :4], originals[:, :, :4])
    assert (images[:, :, 4:] != originals[:, :, 4:]).mean() > 0.8
    found = newest(runs / "painter")
    assert not (found / "metrics.json").exists()
    masks = pixels(found / "masks")[..., 0]
    assert (masks == np.asarray(Image.open(files / "right.png"))).all() and masks.shape == (3, 8, 8)
    shown = pixels(found / "conditions")
    assert (shown[:, :, 4:] == 127).all() and (shown[:, :, :4] == originals[:, :, :4]).all()


def test_masks_of_originals_are_random_and_equal_in_every_call(runs, files):
    images = call(runs / "painter", originals=files / "originals", count=3, seed=4)
    originals, found = pixels(files / "originals"), newest(runs / "painter")
    painted = load_run(runs / "painter").conditions_of(originals, seed=4)[..., -1] == 255
    np.testing.assert_array_equal(pixels(found / "masks")[..., 0] == 255, painted)
    np.testing.assert_array_equal(images[~painted], originals[~painted])
    assert_shows_inputs(images[painted])
    metrics = json.loads((found / "metrics.json").read_text())
    assert "consistency" not in metrics and metrics["psnr"] > 0


def test_colours_are_given_to_grey_images(runs, files):
    images = call(runs / "colour", images=files / "photo.png", originals=files / "photo.png", count=2)
    assert images.shape == (2, 8, 8, 3)
    assert_shows_inputs(images)
    condition = Image.open(newest(runs / "colour") / "conditions" / "000000.png")
    assert condition.mode == "L"
    np.testing.assert_array_equal(condition, Image.open(files / "photo.png").convert("L"))
    grey = np.asarray(condition)[None, ..., None]
    np.testing.assert_array_equal(images, load_run(runs / "colour").sample(2, condition=grey, **FAST))
    assert "consistency" in json.loads((newest(runs / "colour") / "metrics.json").read_text())


def test_images_for_conditions_have_no_label_unless_it_is_set(tmp_path):
    (tmp_path / "labels.json").write_text('["cat", "dog"]')
    model = {"classes": 2, "condition": "mask"}
    assert labels_if_set(config(model=model), tmp_path, 3) is None
    labels = labels_if_set(config(model=model, sample={"label": "dog"}), tmp_path, 3)
    assert labels is not None and labels.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("run", "options", "words"),
    [
        ("sr", {"task": "generate"}, "is an image-to-image model (model.condition='low_resolution'); set sample.task="),
        ("sr", {}, "needs sample.images, the conditions, or sample.originals, of which they are made"),
        ("sr", {"images": "FILES/originals"}, "0.png is 8x8 (width x height); expected 4x4: shrink it, or name"),
        ("sr", {"images": "no.png"}, "sample.images: no.png cannot be read (No such file"),
        ("sr", {"originals": "no.png"}, "sample.originals: no.png cannot be read (No such file"),
        ("sr", {"images": "no/", "originals": "FILES/originals"}, "sample.images: no cannot be read (No such file"),
        ("sr", {"originals": "FILES/originals", "mask": "FILES/right.png"}, "has no effect with model.condition="),
        ("sr", {"originals": "FILES/originals", "condition_noise": 1}, "condition_noise=1 exceeds degradation.noise=0"),
        ("sr", {"originals": "FILES/originals", "strength": 0.2}, "has no effect with sample.task='condition'"),
        ("plain", {"originals": "FILES/originals"}, "this one has model.condition='none'"),
        ("painter", {"images": "FILES/originals"}, "sample.task='condition' needs sample.mask"),
        ("painter", {"images": "FILES/originals", "mask": "FILES/black.png"}, "black.png is black throughout"),
        ("painter", {"task": "inpaint", "images": "FILES/originals"}, "set the task to 'condition'"),
        (
            "colour",
            {"images": "FILES/photo.png", "originals": "FILES/originals"},
            "sample.originals names 3 images and sample.images 1; expected as many",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(runs, files, capsys, run, options, words):
    given = {"task": "condition", **{name: str(value).replace("FILES", str(files)) for name, value in options.items()}}
    before = sorted(runs.rglob("*.png"))
    assert sample(runs / run, **given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and sorted(runs.rglob("*.png")) == before
