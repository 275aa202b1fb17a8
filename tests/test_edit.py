"""Sampling to disk, and work on given images, on a run that the command line trained."""

import json

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import cli
from ddpm_jax.config import config_of
from ddpm_jax.config.sections import Data
from ddpm_jax.data.sources.digits import load_digits
from ddpm_jax.sample import shown_grid
from tests.end_to_end.commands import RECIPE

pytestmark = pytest.mark.xdist_group("edit")  # They share a run.


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    options = ["--config.log.preview_every=0", "--config.log.validate_every=0"]
    assert cli.main(["main.py", RECIPE, f"--workdir={workdir}", *options]) == 0
    return workdir


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    images = load_digits(Data()).decoded[:3]
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(folder / f"{i}.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    (folder / "masks").mkdir()
    Image.fromarray(mask).save(folder / "masks" / "right.png")
    (folder / "masks" / "text").write_text("text")
    Image.fromarray(mask * 0).save(folder / "masks" / "black.png")
    return folder


def sample(workdir, **options) -> int:
    flags = [f"--config.sample.{name}={value}" for name, value in options.items()]
    return cli.main(["main.py", "--mode=sample", f"--workdir={workdir}", *flags])


def newest(workdir):
    return max((workdir / "samples").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def drawn(workdir) -> np.ndarray:
    return np.load(newest(workdir) / "samples.npz")["arr_0"]


def pixels(files) -> np.ndarray:
    return np.stack([np.asarray(Image.open(files / f"{i}.png")) for i in range(3)])[..., None]


def test_a_broken_off_call_goes_on_and_ends_with_the_same_images(workdir, monkeypatch, capsys):
    assert sample(workdir, count=11, batch_size=4, seed=3) == 0
    whole, folder = drawn(workdir), newest(workdir)
    names = ["denoising.gif", "grid.png", "images", "samples.npz", "strip.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    pictures = {name: (folder / name).read_bytes() for name in ("grid.png", "strip.png", "denoising.gif")}
    (folder / "grid.png").unlink()

    from ddpm_jax.reporting.pixel_file import PixelFile

    append = PixelFile.append

    def interrupted(self, images):
        append(self, images)
        if self.count > 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(PixelFile, "append", interrupted)
    assert sample(workdir, count=11, batch_size=4, seed=3) == 130
    monkeypatch.undo()
    assert sample(workdir, count=11, batch_size=4, seed=3) == 0
    assert "Going on after 8 images that were drawn before" in capsys.readouterr().err
    np.testing.assert_array_equal(drawn(workdir), whole)
    assert newest(workdir) == folder and {name: (folder / name).read_bytes() for name in pictures} == pictures
    assert [p for p in (workdir / "samples").iterdir() if p.name.startswith(".")] == []


def test_what_another_call_left_is_not_gone_on_with(workdir):
    assert sample(workdir, count=3, seed=4) == 0
    expected, folder = drawn(workdir), newest(workdir)
    building = folder.with_name(f".{folder.name}.building")
    building.mkdir()
    (building / "pixels.u8").write_bytes(bytes(3 * 64))
    (building / "frames.npy").write_bytes(b"")
    (building / "call.json").write_text(json.dumps({"seed": 4}))
    assert sample(workdir, count=3, seed=4) == 0
    np.testing.assert_array_equal(drawn(workdir), expected)


def test_frames_may_show_the_predictions(workdir):
    assert sample(workdir, count=2, frames="x0", seed=8) == 0
    assert "frames-x0" in newest(workdir).name
    strips = []
    for frames in ("x0", "x_t"):
        assert sample(workdir, count=2, frames=frames, seed=8) == 0
        strips.append(np.asarray(Image.open(newest(workdir) / "strip.png")))
    assert strips[0].shape == strips[1].shape and not np.array_equal(*strips)
    # Both begin with the noise and end with the image.
    np.testing.assert_array_equal(strips[0][:, :66], strips[1][:, :66])
    np.testing.assert_array_equal(strips[0][:, -66:], strips[1][:, -66:])


def test_classes_in_turn_are_shown_a_row_each():
    pixels = (np.arange(8, dtype=np.uint8) * 30).reshape(8, 1, 1, 1).repeat(64, axis=1).repeat(64, axis=2)
    config = config_of({"model": {"classes": 3}})
    rows = shown_grid(config, pixels)[34::66, 34::66, 0]
    assert rows.tolist() == [[0, 90], [30, 120], [60, 150]]
    one = config_of({"model": {"classes": 3}, "sample": {"label": "2"}})
    assert shown_grid(one, pixels).shape == (3 * 66 + 2, 3 * 66 + 2, 1)


def test_samplers_are_compared_from_the_same_noise(workdir, capsys):
    assert sample(workdir, task="compare", compare="ddim:4,ddim:4,ddpm", count=3) == 0
    rows = drawn(workdir).reshape(3, 3, 8, 8, 1)
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])
    assert "ddim-4steps              differs from ddim-4steps by 0.0 grey levels" in capsys.readouterr().err


def test_reconstructions_stand_below_their_originals(workdir, files, capsys):
    assert sample(workdir, task="reconstruct", sampler="ddim", steps=8, images=files) == 0
    assert drawn(workdir).shape == (3, 8, 8, 1) and "PSNR" in capsys.readouterr().err
    picture = np.asarray(Image.open(newest(workdir) / "grid.png"))
    np.testing.assert_array_equal(picture[2:66:8, 2:66:8], pixels(files)[0, ..., 0])


def test_an_interpolation_begins_and_ends_with_the_reconstructions(workdir, files):
    assert sample(workdir, task="reconstruct", sampler="ddim", steps=8, images=f"{files}/0.png,{files}/2.png") == 0
    ends = drawn(workdir)
    options = {"task": "interpolate", "sampler": "ddim", "steps": 8, "count": 5}
    assert sample(workdir, images=f"{files}/0.png,{files}/2.png", **options) == 0
    between = drawn(workdir)
    assert np.abs(between[[0, -1]].astype(int) - ends).max() <= 1
    assert (newest(workdir) / "interpolation.gif").exists()
    assert sample(workdir, seed=3, other_seed=5, **options) == 0
    first, last = drawn(workdir)[[0, -1]]
    for seed, end in ((3, first), (5, last)):
        assert sample(workdir, sampler="ddim", steps=8, count=1, seed=seed, threshold="none") == 0
        assert np.abs(drawn(workdir)[0].astype(int) - end).max() <= 1


def test_inpainting_leaves_known_pixels_as_they_are(workdir, files):
    mask = files / "masks" / "right.png"
    assert sample(workdir, task="inpaint", images=files, mask=mask, count=6, resamples=2, jump=2) == 0
    images = drawn(workdir)
    np.testing.assert_array_equal(images[:, :, :4], np.tile(pixels(files), (2, 1, 1, 1))[:, :, :4])
    assert np.abs(images[0, :, 4:].astype(int) - images[3, :, 4:]).max() > 0


def test_variations_of_little_strength_stay_near(workdir, files):
    distances = []
    for strength in (0.13, 1.0):
        assert sample(workdir, task="vary", images=files, strength=strength, count=3) == 0
        distances.append(np.abs(drawn(workdir).astype(int) - pixels(files)).mean())
    assert distances[0] < distances[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "vary"}, "sample.task='vary' works on images; name some by sample.images"),
        ({"task": "vary", "images": "no.png"}, "sample.images: no.png cannot be read (No such file"),
        ({"task": "vary", "images": "FILES/masks,FILES/masks/text"}, "it is no PNG, JPEG"),
        ({"task": "inpaint", "images": "FILES"}, "needs sample.mask"),
        ({"task": "inpaint", "images": "FILES", "mask": "FILES/masks/black.png"}, "is black throughout"),
        ({"task": "inpaint", "sampler": "ddim"}, "needs sample.sampler='ddpm', got 'ddim'"),
        ({"task": "reconstruct", "images": "FILES"}, "needs sample.sampler='ddim' with sample.eta=0"),
        ({"task": "interpolate", "sampler": "ddim", "images": "FILES"}, "names 3 images; interpolate needs two"),
        ({"task": "interpolate", "sampler": "ddim", "count": 1}, "leaves nothing between two images"),
        ({"task": "compare", "compare": "ddim:many"}, "sample.compare names 'ddim:many'; expected a sampler"),
        ({"task": "compare", "compare": "ddim,dpm"}, "sample.sampler='dpm' does not exist"),
        ({"task": "compare", "compare": "ddim:9"}, "sample.steps=9 exceeds diffusion.steps=8"),
        ({"task": "paint"}, "sample.task='paint' does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(workdir, files, capsys, options, words):
    capsys.readouterr()
    assert sample(workdir, **{k: str(v).replace("FILES", str(files)) for k, v in options.items()}) == 2
    assert words in capsys.readouterr().err
