"""--mode=sample --config.sample.task=condition, with networks of random parameters."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import load_run
from ddpm_jax.config.sections import Data
from ddpm_jax.data.sources.digits import load_digits
from ddpm_jax.evaluation.conditional import restoration_metrics
from ddpm_jax.generation.labels import labels_if_set
from ddpm_jax.generation.pixel_file import PixelFile
from tests.commands.sampled import newest, sample, sampled
from tests.interop.toy import config, random_run

pytestmark = pytest.mark.xdist_group("conditions")  # They share runs.
FAST = {"sampler": "ddim", "steps": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    random_run(folder / "sr", model={"condition": "low_resolution"}, degradation={"factor": 2})
    random_run(folder / "painter", model={"condition": "mask"})
    random_run(folder / "colour", data={"channels": 3, "source": "synthetic"}, model={"condition": "grey"})
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "originals").mkdir()
    for i, image in enumerate(load_digits(Data()).decoded[:3]):
        Image.fromarray(image[..., 0]).save(folder / "originals" / f"{i}.png")
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


def test_conditions_of_originals_are_those_of_training_and_can_be_used_again(runs, files, capsys):
    images, originals = call(runs / "sr", originals=files / "originals", count=4), pixels(files / "originals")
    found, run = newest(runs / "sr"), load_run(runs / "sr")
    conditions = run.conditions_of(originals)
    np.testing.assert_array_equal(pixels(found / "conditions"), conditions)
    np.testing.assert_array_equal(images, run.sample(4, condition=conditions, **FAST))
    assert not np.array_equal(images[0], images[3])  # The same condition, other noise.
    # Rows of conditions, results and originals, each pixel enlarged eight times.
    rows = np.asarray(Image.open(found / "grid.png"))[2::66]
    np.testing.assert_array_equal(
        rows[:3, 2:66:8], [conditions[0, 0, :, 0].repeat(2), images[0, 0, :, 0], originals[0, 0, :, 0]]
    )

    turn = np.array([0, 1, 2, 0])
    values = restoration_metrics(run.config, images, conditions[turn], originals[turn])
    metrics = json.loads((found / "metrics.json").read_text())
    assert metrics.pop("each") == {name: value.tolist() for name, value in values.items()}
    assert metrics == {"images": 4, **{name: value.mean() for name, value in values.items()}}
    logged = re.search(r"PSNR ([\d.]+) dB, SSIM ([\d.-]+) \(bicubic enlargement: ([\d.]+) dB", capsys.readouterr().err)
    assert logged and [float(each) for each in logged.groups()] == pytest.approx(
        [metrics["psnr"], metrics["ssim"], metrics["baseline_psnr"]], abs=0.01
    )

    np.testing.assert_array_equal(call(runs / "sr", images=found / "conditions", count=4), images)
    assert newest(runs / "sr") != found and not (newest(runs / "sr") / "metrics.json").exists()
    both = {"images": found / "conditions", "originals": files / "originals"}
    np.testing.assert_array_equal(call(runs / "sr", **both, count=4), images)
    assert json.loads((newest(runs / "sr") / "metrics.json").read_text()).items() >= metrics.items()


def test_pixels_outside_the_mask_stay(runs, files):
    originals = pixels(files / "originals")
    images = call(runs / "painter", images=files / "originals", mask=files / "right.png", count=3)
    np.testing.assert_array_equal(images[:, :, :4], originals[:, :, :4])
    assert (images[:, :, 4:] != originals[:, :, 4:]).any()
    found = newest(runs / "painter")
    assert not (found / "metrics.json").exists()
    masks = pixels(found / "masks")[..., 0]
    assert (masks == np.asarray(Image.open(files / "right.png"))).all() and masks.shape == (3, 8, 8)
    shown = pixels(found / "conditions")
    assert (shown[:, :, 4:] == 127).all() and (shown[:, :, :4] == originals[:, :, :4]).all()
    again = call(runs / "painter", images=found / "conditions", mask=found / "masks" / "000000.png", count=3)
    np.testing.assert_array_equal(again, images)


def test_masks_of_originals_are_random_and_equal_in_every_call(runs, files):
    images, originals = (
        call(runs / "painter", originals=files / "originals", count=3, seed=4),
        pixels(files / "originals"),
    )
    painted = load_run(runs / "painter").conditions_of(originals, seed=4)[..., -1] == 255
    np.testing.assert_array_equal(pixels(newest(runs / "painter") / "masks")[..., 0] == 255, painted)
    np.testing.assert_array_equal(images[~painted], originals[~painted])
    metrics = json.loads((newest(runs / "painter") / "metrics.json").read_text())
    assert "consistency" not in metrics and metrics["psnr"] > 0
    call(runs / "painter", originals=files / "originals", mask=files / "right.png", count=3)
    assert (newest(runs / "painter") / "metrics.json").exists()


def test_colours_are_given_to_grey_images(runs, files):
    images = call(runs / "colour", images=files / "photo.png", originals=files / "photo.png", count=2)
    assert images.shape == (2, 8, 8, 3)
    condition = Image.open(newest(runs / "colour") / "conditions" / "000000.png")
    assert condition.mode == "L"
    np.testing.assert_array_equal(condition, Image.open(files / "photo.png").convert("L"))
    assert "consistency" in json.loads((newest(runs / "colour") / "metrics.json").read_text())


def test_an_interrupted_call_resumes_to_the_same_bits(runs, files, monkeypatch, capsys):
    options = {"originals": files / "originals", "count": 6, "batch_size": 2, "seed": 9}
    whole, append = call(runs / "sr", **options), PixelFile.append

    def interrupted(self, images):
        append(self, images)
        if self.count == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(PixelFile, "append", interrupted)
    assert sample(runs / "sr", task="condition", **FAST, **options) == 130
    monkeypatch.undo()
    np.testing.assert_array_equal(call(runs / "sr", **options), whole)
    assert "Resuming after 4 images" in capsys.readouterr().err


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
        ("sr", {"originals": "FILES/originals", "count": 2}, "leaves out some of the 3 images of sample.originals"),
        ("sr", {"originals": "FILES/originals", "mask": "FILES/right.png"}, "has no effect with model.condition="),
        ("sr", {"originals": "FILES/originals", "condition_noise": 1}, "condition_noise=1 exceeds degradation.noise=0"),
        ("sr", {"originals": "FILES/originals", "strength": 0.2}, "has no effect with sample.task='condition'"),
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


def test_a_model_without_a_condition_takes_none(workdir, files, capsys):
    assert sample(workdir, task="condition", originals=files / "originals") == 2
    assert "needs an image-to-image model; this one has model.condition='none'" in capsys.readouterr().err
