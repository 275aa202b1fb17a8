import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.pictures import encoded, noise, write
from tests.scripts.processes import run_script


@pytest.fixture
def photos(tmp_path, draw):
    for i in range(9):
        write(tmp_path / "photos" / ("cats" if i % 3 else "dogs") / f"{i}.png", encoded(noise(draw, 8, 8)))
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


def prepare(photos, *flags: str) -> subprocess.CompletedProcess:
    where = [f"--config.data.path={photos}", f"--config.data.cache={photos.parent}/cache", "--config.data.image_size=8"]
    return run_script("prepare_data.py", *where, *flags)


def test_a_folder_is_cached_with_its_statistics_and_a_contact_sheet(photos):
    write(photos / "cats" / "a.heic", b"")
    done = prepare(photos, "--json")
    facts = json.loads(done.stdout)
    files = sorted((photos / "cats").glob("*.png")) + sorted((photos / "dogs").iterdir())
    assert facts["left_out"] == {".heic": ["cats/a.heic"]}
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    assert (facts["images"], facts["shape"], facts["classes"]) == (9, [8, 8, 3], {"cats": 6, "dogs": 3})
    np.testing.assert_allclose(facts["mean"], (pixels / 255).mean(axis=(0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(facts["std"], (pixels / 255).std(axis=(0, 1, 2)), atol=1e-4)
    stored = np.fromfile(f"{facts['cache']}/images.u8", np.uint8).reshape(pixels.shape)
    np.testing.assert_array_equal(stored, pixels)
    with Image.open(facts["contact_sheet"]) as sheet:
        assert sheet.width > 3 * 64

    again = prepare(photos, f"--sheet={photos.parent}/sheet.png")
    assert again.returncode == 0 and "cats 6, dogs 3" in again.stdout
    assert again.stdout.splitlines()[-1] == "left_out      1 .heic: cats/a.heic"
    assert (photos.parent / "sheet.png").exists()


def test_a_contact_sheet_is_never_written_among_the_images(photos, monkeypatch):
    monkeypatch.chdir(photos)
    done = prepare(Path(), "--config.data.stream=True", "--json")
    sheet = Path(json.loads(done.stdout)["contact_sheet"])
    assert sheet.is_file() and not sheet.resolve().is_relative_to(photos)
    done = prepare(photos, "--sheet=cats/sheet.png")
    assert done.returncode == 2 and "--sheet=cats/sheet.png lies in data.path, and would be trained on" in done.stderr
    assert len(list(photos.rglob("*.png"))) == 9


def test_all_unreadable_images_are_listed_at_once(photos):
    for i in range(3):
        write(photos / "cats" / f"broken{i}.png", b"no image")
    done, as_json = prepare(photos), prepare(photos, "--json")
    assert done.returncode == as_json.returncode == 2
    reasons = json.loads(as_json.stdout)["unreadable"]
    assert list(reasons) == [f"cats/broken{i}.png" for i in range(3)] and all(reasons.values())
    assert done.stdout.splitlines() == [f"{name}: {reason}" for name, reason in reasons.items()]
    assert "at least 3 of 12 images cannot be read, more than 1%" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.data.filter=cats & dogs"], "selects none of the 9 images"),
        (["--config.data.pth=x"], "data.pth is not a field of the configuration; did you mean data.path or"),
        (["--shet=x"], "'--shet=x' is not a flag; did you mean sheet?"),
        (["--config=none.py"], "--config=none.py is neither a Python file nor a recipe"),
        (["--sheet=/dev/null/sheet.png"], "--sheet=/dev/null/sheet.png cannot be written"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(photos, flags, words):
    done = prepare(photos, *flags)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) <= 1, done.stderr
    assert not done.stdout
