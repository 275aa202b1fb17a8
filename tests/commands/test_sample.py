"""--mode=sample on a run that the command line trained."""

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.commands import cli
from ddpm_jax.config import config_of
from ddpm_jax.generation.output import shown_grid
from ddpm_jax.generation.pixel_file import PixelFile
from tests.commands.sampled import newest, sample, sampled

pytestmark = pytest.mark.xdist_group("sampled")  # They share a run.


def test_frames_can_show_the_predictions(workdir):
    assert sample(workdir, count=2, frames="x0", seed=8) == 0
    assert "frames-x0" in newest(workdir).name
    strips = []
    for frames in ("x0", "x_t"):
        assert sample(workdir, count=2, frames=frames, seed=8) == 0
        strips.append(np.asarray(Image.open(newest(workdir) / "strip.png")))
    assert strips[0].shape == strips[1].shape and not np.array_equal(*strips)
    # Both start with the noise and end with the image.
    np.testing.assert_array_equal(strips[0][:, :66], strips[1][:, :66])
    np.testing.assert_array_equal(strips[0][:, -66:], strips[1][:, -66:])


def test_classes_in_turn_fill_one_row_each():
    pixels = (np.arange(8, dtype=np.uint8) * 30).reshape(8, 1, 1, 1).repeat(64, axis=1).repeat(64, axis=2)
    config = config_of({"model": {"classes": 3}})
    rows = shown_grid(config, pixels)[34::66, 34::66, 0]
    assert rows.tolist() == [[0, 90, 180], [30, 120, 210], [60, 150, 255]]
    assert shown_grid(config, pixels[:5]).shape == (2 * 66 + 2, 3 * 66 + 2, 1)  # Too few for rows.
    one = config_of({"model": {"classes": 3}, "sample": {"label": "2"}})
    assert shown_grid(one, pixels).shape == (3 * 66 + 2, 3 * 66 + 2, 1)


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_run_that_can_only_be_read_is_sampled_and_measured_in_another_folder(workdir, tmp_path, monkeypatch, capsys):
    options = {"count": 4, "batch_size": 2, "seed": 12}
    assert sample(workdir, **options) == 0
    expected, before, append = sampled(workdir), files(workdir), PixelFile.append

    def interrupted(self, images):
        append(self, images)
        raise KeyboardInterrupt

    monkeypatch.setattr(PixelFile, "append", interrupted)
    assert sample(workdir, **options, out=tmp_path) == 130
    monkeypatch.undo()
    assert sample(workdir, **options, out=tmp_path) == 0
    assert "Resuming after 2 images" in capsys.readouterr().err
    np.testing.assert_array_equal(sampled(tmp_path), expected)
    assert sample(workdir, task="compare", compare="ddim:2", count=2, out=tmp_path) == 0
    assert "compare" in newest(tmp_path).name
    flags = ["--config.evaluate.features=pixels", "--config.evaluate.count=10", f"--config.sample.out={tmp_path}"]
    assert cli.main(["main.py", "--mode=evaluate", f"--workdir={workdir}", *flags]) == 0
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"samples", "sample.log", "evaluation", "evaluate.log", "run.json"}
    assert files(workdir) == before


@pytest.mark.parametrize("denied", ["sample.log", "samples"])
def test_a_workdir_that_cannot_be_written_names_the_field_for_another_folder(workdir, monkeypatch, capsys, denied):
    def deny(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(workdir / denied))

    monkeypatch.setattr(*{"sample.log": (cli, "start_log"), "samples": (Path, "mkdir")}[denied], deny)
    assert sample(workdir, count=2, seed=13) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"{workdir / denied}: Permission denied; ") and "--config.sample.out=FOLDER" in line
