"""Generated images on disk: resumed after an interruption at any time, and published only when complete."""

import json
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

from ddpm_jax.generation import output
from ddpm_jax.generation.pixel_file import PixelFile
from tests.commands.sampled import newest, sample, sampled

pytestmark = pytest.mark.xdist_group("sampled")  # They share a run.


def interrupt_a_call(workdir, monkeypatch, **options):
    """Interrupts a call after 8 images; returns its unfinished folder."""
    append = PixelFile.append

    def interrupted(self, images):
        append(self, images)
        if self.count > 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(PixelFile, "append", interrupted)
    assert sample(workdir, **options) == 130
    monkeypatch.undo()
    (folder,) = (workdir / "samples").glob(".*.unfinished")
    return folder


def test_an_interrupted_call_resumes_and_ends_with_the_same_images(workdir, monkeypatch, capsys):
    assert sample(workdir, count=11, batch_size=4, seed=3) == 0
    whole, folder = sampled(workdir), newest(workdir)
    names = ["denoising.gif", "grid.png", "images", "samples.npz", "strip.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    pictures = {name: (folder / name).read_bytes() for name in ("grid.png", "strip.png", "denoising.gif")}
    (folder / "grid.png").unlink()

    interrupt_a_call(workdir, monkeypatch, count=11, batch_size=4, seed=3)
    assert sample(workdir, count=11, batch_size=4, seed=3) == 0
    assert "Resuming after 8 images" in capsys.readouterr().err
    np.testing.assert_array_equal(sampled(workdir), whole)
    assert newest(workdir) == folder and {name: (folder / name).read_bytes() for name in pictures} == pictures
    assert [p for p in (workdir / "samples").iterdir() if p.name.startswith(".")] == []


def test_another_batch_size_keeps_all_images(workdir, monkeypatch, capsys):
    assert sample(workdir, count=11, batch_size=4, seed=5) == 0
    whole = sampled(workdir)
    interrupt_a_call(workdir, monkeypatch, count=11, batch_size=4, seed=5)
    assert sample(workdir, count=11, batch_size=3, seed=5) == 0
    assert "Resuming after 8 images" in capsys.readouterr().err
    assert np.abs(sampled(workdir).astype(int) - whole).max() <= 1 and len(sampled(workdir)) == 11


def damaged_frames(folder):
    with (folder / "frames.npy").open("r+b") as file:
        file.truncate(200)


def too_many_pixels(folder):
    with (folder / "pixels.u8").open("ab") as file:
        file.write(bytes(8 * 64))


def no_text(folder):
    (folder / "request.json").write_bytes(b"\xff")


@pytest.mark.parametrize("damage", [damaged_frames, too_many_pixels, no_text])
def test_damaged_images_of_an_interrupted_call_are_sampled_again(workdir, monkeypatch, capsys, damage):
    assert sample(workdir, count=11, batch_size=4, seed=8) == 0
    whole = sampled(workdir)
    damage(interrupt_a_call(workdir, monkeypatch, count=11, batch_size=4, seed=8))
    capsys.readouterr()
    assert sample(workdir, count=11, batch_size=4, seed=8) == 0
    assert "Resuming" not in capsys.readouterr().err
    np.testing.assert_array_equal(sampled(workdir), whole)


def test_images_of_other_parameters_are_discarded(workdir, monkeypatch, capsys):
    folder = interrupt_a_call(workdir, monkeypatch, count=11, batch_size=4, seed=6)
    request = json.loads((folder / "request.json").read_text())
    (folder / "request.json").write_text(json.dumps(request | {"inputs": request["inputs"] + 1}, sort_keys=True))
    assert sample(workdir, count=11, batch_size=4, seed=6) == 0
    assert "Resuming" not in capsys.readouterr().err


def test_only_one_job_at_a_time_samples_into_a_folder(workdir, monkeypatch, capsys):
    codes = []

    def meanwhile(self, images):
        monkeypatch.undo()
        codes.append(sample(workdir, count=2, seed=7))
        self.append(images)

    monkeypatch.setattr(PixelFile, "append", meanwhile)
    assert sample(workdir, count=2, seed=7) == 0
    assert codes == [2] and "Another job is sampling" in capsys.readouterr().err
    assert len(sampled(workdir)) == 2


@pytest.mark.parametrize("moment", ["a PNG file", "the array", "the folder's name"])
def test_an_interruption_while_files_are_written_loses_no_image(workdir, monkeypatch, capsys, moment):
    """Also if a folder of that name was complete before: it stays until the new one is complete."""
    options = {"count": 5, "batch_size": 5, "seed": 20}
    assert sample(workdir, **options) == 0
    folder, before = newest(workdir), sampled(workdir)
    called = []

    def interrupted(*arguments, **more):
        called.append(1)
        raise KeyboardInterrupt

    def renamed(self, other, rename=pathlib.Path.rename):
        return interrupted() if self.is_dir() else rename(self, other)

    def third(*arguments, save=output.save_png):
        called.append(1)
        return interrupted() if len(called) > 3 else save(*arguments)

    if moment == "a PNG file":
        monkeypatch.setattr(output, "save_png", third)
    elif moment == "the array":
        monkeypatch.setattr(output.np, "savez", interrupted)
    else:
        monkeypatch.setattr(pathlib.Path, "rename", renamed)
    assert sample(workdir, **options) == 130 and called
    monkeypatch.undo()
    np.testing.assert_array_equal(np.load(folder / "samples.npz")["arr_0"], before)
    assert len(PixelFile(folder.with_name(f".{folder.name}.unfinished") / "pixels.u8", (8, 8, 1)).images()) == 5
    monkeypatch.setattr(PixelFile, "append", lambda *_: pytest.fail("sampled again"))
    assert sample(workdir, **options) == 0
    np.testing.assert_array_equal(sampled(workdir), before)
    assert [path for path in (workdir / "samples").iterdir() if path.name.startswith(".")] == []


def test_files_of_the_user_in_a_folder_of_samples_are_never_removed(workdir, capsys):
    assert sample(workdir, count=2, seed=30) == 0
    (newest(workdir) / "notes.txt").write_text("mine")
    assert sample(workdir, count=2, seed=30) == 2
    assert "holds notes.txt, which sampling did not write" in capsys.readouterr().err
    (newest(workdir) / "notes.txt").unlink()
    assert sample(workdir, count=2, seed=30) == 0


def test_a_configuration_that_does_not_fit_the_checkpoint_is_one_line_with_the_remedy(workdir, tmp_path, capsys):
    copy = shutil.copytree(workdir, tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    config["model"]["blocks"] += 1
    (copy / "config.json").write_text(json.dumps(config))
    assert sample(copy, count=2) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "does not hold the arrays that" in line and "Traceback" not in line
    subprocess.run(line[line.index("cp ") :], shell=True, check=True)
    assert sample(copy, count=2) == 0
