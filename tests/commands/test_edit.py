"""Editing of given images by a run that the command line trained."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import load_run
from ddpm_jax.builders import build_pairs, build_schedule, build_unet
from ddpm_jax.diffusion.pixels import from_pixels, to_pixels
from ddpm_jax.network.bind import bind
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.editing import invert
from ddpm_jax.sampling.noise import image_keys
from tests.commands.sampled import newest, sample, sampled
from tests.data.pictures import write_digits

pytestmark = pytest.mark.xdist_group("sampled")  # They share a run.


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_digits(folder, 3)
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    (folder / "masks").mkdir()
    Image.fromarray(mask).save(folder / "masks" / "right.png")
    (folder / "masks" / "text").write_text("text")
    Image.fromarray(mask * 0).save(folder / "masks" / "black.png")
    return folder


def pixels(files) -> np.ndarray:
    return np.stack([np.asarray(Image.open(files / f"{i}.png")) for i in range(3)])[..., None]


def test_samplers_are_compared_from_the_same_noise(workdir, capsys):
    assert sample(workdir, task="compare", compare="ddim:4,ddim:4,ddpm", count=3) == 0
    rows = sampled(workdir).reshape(3, 3, 8, 8, 1)
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])
    assert "ddim-4steps              differs from ddim-4steps by 0.0 grey levels" in capsys.readouterr().err


def test_reconstructions_equal_inversion_and_sampling_by_hand(workdir, files, capsys):
    assert sample(workdir, task="reconstruct", sampler="ddim", steps=8, images=files) == 0
    run, schedule = load_run(workdir), build_schedule(load_run(workdir).config)
    denoiser = bind(build_unet(run.config), run.params, schedule, run.config.diffusion.prediction)
    settings = dataclasses.replace(run.config.sample, sampler="ddim", steps=8)
    pairs = build_pairs(dataclasses.replace(run.config, sample=settings))
    x_T = invert(denoiser, schedule, from_pixels(pixels(files)), pairs).images
    again = to_pixels(ddim(denoiser, schedule, x_T, image_keys(0, np.arange(3)), pairs).images)
    assert np.abs(sampled(workdir).astype(int) - again).max() <= 1
    decibels = 10 * np.log10(255**2 / np.mean((again.astype(float) - pixels(files)) ** 2, axis=(1, 2, 3)))
    logged = re.search(r"PSNR ([\d.]+) dB, mean over 3 images", capsys.readouterr().err)
    assert logged and float(logged[1]) == pytest.approx(decibels.mean(), abs=0.1)
    picture = np.asarray(Image.open(newest(workdir) / "grid.png"))
    np.testing.assert_array_equal(picture[2:66:8, 2:66:8], pixels(files)[0, ..., 0])


def test_an_interpolation_starts_and_ends_with_the_reconstructions(workdir, files):
    assert sample(workdir, task="reconstruct", sampler="ddim", steps=8, images=f"{files}/0.png,{files}/2.png") == 0
    ends = sampled(workdir)
    options = {"task": "interpolate", "sampler": "ddim", "steps": 8, "count": 5}
    assert sample(workdir, images=f"{files}/0.png,{files}/2.png", **options) == 0
    between = sampled(workdir)
    assert np.abs(between[[0, -1]].astype(int) - ends).max() <= 1
    assert (newest(workdir) / "interpolation.gif").exists()
    assert sample(workdir, seed=3, other_seed=5, **options) == 0
    first, last = sampled(workdir)[[0, -1]]
    for seed, end in ((3, first), (5, last)):
        assert sample(workdir, sampler="ddim", steps=8, count=1, seed=seed, threshold="none") == 0
        assert np.abs(sampled(workdir)[0].astype(int) - end).max() <= 1


def test_inpainting_keeps_known_pixels(workdir, files):
    mask = files / "masks" / "right.png"
    assert sample(workdir, task="inpaint", images=files, mask=mask, count=6, resamples=2, jump=2) == 0
    images = sampled(workdir)
    np.testing.assert_array_equal(images[:, :, :4], np.tile(pixels(files), (2, 1, 1, 1))[:, :, :4])
    assert np.abs(images[0, :, 4:].astype(int) - images[3, :, 4:]).max() > 0


def test_variations_of_less_strength_are_closer_to_their_originals(workdir, files):
    distances = []
    for strength in (0.13, 1.0):
        assert sample(workdir, task="vary", images=files, strength=strength, count=3) == 0
        distances.append(np.abs(sampled(workdir).astype(int) - pixels(files)).mean())
    assert distances[0] < distances[1]


def test_fewer_variations_than_images_are_those_of_the_first_images(workdir, files, capsys):
    options = {"task": "vary", "images": files, "strength": 0.5}
    assert sample(workdir, **options, count=3) == 0
    every = sampled(workdir)
    capsys.readouterr()
    assert sample(workdir, **options, count=2) == 0
    np.testing.assert_array_equal(sampled(workdir), every[:2])
    assert "Warning: sample.count=2 leaves out the last 1 images of sample.images" in capsys.readouterr().err


def test_threshold_and_variance_change_edits_and_batch_sizes_do_not(workdir, files):
    def edited(**options):
        assert sample(workdir, images=files, count=6, seed=2, **options) == 0
        return sampled(workdir).astype(int)

    inpainting = {"task": "inpaint", "mask": files / "masks" / "right.png", "resamples": 2, "jump": 2}
    for task in ({"task": "vary", "strength": 1.0}, inpainting):
        plain = edited(**task)
        assert np.abs(edited(**task, threshold="none") - plain).max() > 1
        assert np.abs(edited(**task, variance="fixed_small") - plain).max() > 1
        assert np.abs(edited(**task, batch_size=4) - plain).max() <= 1


def test_masks_are_cropped_like_their_images(tmp_path, workdir, draw):
    """The network sees the rows 8 to 15 of photos of 8x24 pixels; of these the mask opens the upper two."""
    cropped = tmp_path / "run"
    shutil.copytree(workdir, cropped, ignore=shutil.ignore_patterns("samples"))
    config = json.loads((cropped / "config.json").read_text())
    config["data"] |= {"crop": [0, 8, 8, 16], "source": "auto"}
    (cropped / "config.json").write_text(json.dumps(config))
    photo = draw.integers(0, 256, (24, 8), dtype=np.uint8)
    mask = np.zeros((24, 8), np.uint8)
    mask[:10] = 255
    for name, picture in (("photo", photo), ("mask", mask), ("small", photo[8:16]), ("small-mask", mask[8:16])):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    for prefix in ("", "small"):  # What has the network's size already is taken as it is.
        names = {"images": prefix or "photo", "mask": f"{prefix}-mask".lstrip("-")}
        options = {field: tmp_path / f"{name}.png" for field, name in names.items()}
        assert sample(cropped, task="inpaint", count=4, resamples=1, **options) == 0
        image = sampled(cropped)[:, ..., 0]
        np.testing.assert_array_equal(image[:, 2:], np.tile(photo[10:16], (4, 1, 1)))
        assert (image[:, :2] != photo[8:10]).any(axis=(0, 2)).all()


def test_results_of_other_images_are_not_overwritten(workdir, files, tmp_path):
    folders = set()
    for name, source in (("a b", 0), ("a_b", 0), ("a_b", 1)):
        (tmp_path / f"{name}.png").write_bytes((files / f"{source}.png").read_bytes())
        assert sample(workdir, task="vary", images=tmp_path / f"{name}.png", count=1) == 0
        folders.add(newest(workdir))
    assert len(folders) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "vary"}, "sample.task='vary' needs images; set sample.images"),
        ({"task": "vary", "images": "no.png"}, "sample.images: no.png cannot be read (No such file"),
        ({"task": "vary", "images": "FILES/masks,FILES/masks/text"}, "not a PNG, JPEG"),
        ({"task": "inpaint", "images": "FILES"}, "needs sample.mask"),
        ({"task": "inpaint", "images": "FILES", "mask": "FILES/masks/black.png"}, "is black throughout"),
        ({"task": "inpaint", "sampler": "ddim"}, "needs sample.sampler='ddpm', got 'ddim'"),
        ({"task": "reconstruct", "images": "FILES"}, "needs sample.sampler='ddim' with sample.eta=0"),
        ({"task": "interpolate", "sampler": "ddim", "images": "FILES"}, "names 3 images; interpolate needs two"),
        ({"task": "interpolate", "sampler": "ddim", "count": 1}, "leaves nothing between two images"),
        ({"task": "compare", "compare": "ddim:many"}, "sample.compare names 'ddim:many'; expected a sampler"),
        ({"task": "compare", "compare": "ddim,dpm"}, "sample.sampler='dpm' does not exist"),
        ({"task": "compare", "compare": "ddim:9"}, "sample.steps=9 exceeds diffusion.steps=8"),
        ({"task": "compare", "compare": "ddim,"}, "sample.compare='ddim,' holds an empty name"),
        ({"task": "compare", "compare": "ddim,unipc", "steps": 3}, "sample.steps=3 is for sample.sampler='ddpm'"),
        ({"task": "vary", "images": "FILES/0.png,"}, "holds an empty name; leave out the comma"),
        ({"task": "vary", "images": "FILES", "timesteps": "(8,7)"}, "or list lower sample.timesteps"),
        ({"task": "vary", "images": "FILES", "steps": 2, "strength": 0.1}, "raise sample.strength, or sample.steps"),
        (
            {"images": "FILES"},
            "has no effect with sample.task='generate'; set the task to 'condition' or 'reconstruct'",
        ),
        ({"strength": 0.3}, "has no effect with sample.task='generate'; set the task to 'vary'"),
        ({"task": "reconstruct", "sampler": "ddim", "threshold": "dynamic"}, "cannot be inverted"),
        ({"count": 10**13}, "out of range; expected 1 to 10000000"),
        ({"steps": "many"}, "sample.steps='many' has the wrong type; expected a whole number"),
        ({"task": "paint"}, "sample.task='paint' does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(workdir, files, capsys, options, words):
    capsys.readouterr()
    assert sample(workdir, **{k: str(v).replace("FILES", str(files)) for k, v in options.items()}) == 2
    assert words in capsys.readouterr().err
