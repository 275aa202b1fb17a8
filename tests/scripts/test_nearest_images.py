import json

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config.sections import Data
from ddpm_jax.data.dataset import Dataset, hold_out
from ddpm_jax.data.sources.digits import load_digits
from ddpm_jax.errors import UserError
from scripts import nearest_images


@pytest.fixture
def nearest(monkeypatch, capsys):
    """Runs the script with these arguments; what it prints."""

    def run(*argv: object) -> str:
        monkeypatch.setattr("sys.argv", ["nearest_images.py", *map(str, argv), "--features=pixels"])
        nearest_images.main()
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """The data of the shared run, which holds out a tenth."""
    return Dataset(load_digits(Data(source="digits")).decoded, np.zeros(1797, np.int32), ())


def test_copies_of_training_images_of_a_run_are_found_and_held_out_images_are_none(workdir, digits, nearest, tmp_path):
    rows, held = hold_out(digits, 0.1)
    copied = rows[[5, 900, 31]]
    np.savez(tmp_path / "copies.npz", digits.images[copied])
    flags = ("--json", "--k=2", f"--training={workdir}", f"--out={tmp_path}/nearest.png")
    report = json.loads(nearest(tmp_path / "copies.npz", *flags))
    assert report["images"] == {"samples": 3, "held_out": len(held), "training": len(rows)}
    assert {each["sample"]: each["nearest"]["pixels"][0]["row"] for each in report["closest"]} == dict(
        enumerate(copied)
    )
    assert all(each["nearest"]["pixels"][0]["distance"] < 1e-4 for each in report["closest"])
    assert report["features"]["pixels"]["closer"] == 1.0 and report["features"]["pixels"]["held_out"]["smallest"] > 1
    picture = np.asarray(Image.open(report["picture"]))  # A caption and a row for each image: 64 pixels and gaps.
    assert picture.shape[:2] == ((3 + 10) * (14 + 68), 4 * 66 + 2)
    np.testing.assert_array_equal(picture[16:80, 2:66], picture[16:80, 134:198])

    np.savez(tmp_path / "held.npz", digits.images[held])
    report = json.loads(nearest(tmp_path / "held.npz", *flags))
    facts = report["features"]["pixels"]
    assert facts["samples"] == facts["held_out"] and facts["closer"] == pytest.approx(0.5, rel=1e-12)


def test_sets_without_a_run_need_held_out_images_and_may_be_mirrored(nearest, tmp_path, draw):
    training, other = (draw.integers(0, 256, (30, 4, 5, 3), dtype=np.uint8) for _ in range(2))
    for name, images in {"training": training, "held": other, "samples": training[:4, :, ::-1]}.items():
        np.savez(tmp_path / f"{name}.npz", images)
    names = (tmp_path / "samples.npz", f"--training={tmp_path}/training.npz", f"--out={tmp_path}/n.png")
    with pytest.raises(UserError, match="name a set of them: --held-out="):
        nearest(*names)
    held = f"--held-out={tmp_path}/held.npz"
    printed = nearest(*names, held, "--mirrored", "--count=3")
    assert "(training image 2, mirrored)" in printed and "3 held out" in printed and "3 samples" in printed
    assert "mirrored" not in nearest(*names, held)
    with pytest.raises(UserError, match="--k=31 exceeds the number of training images, 30"):
        nearest(*names, held, "--k=31")
    picture = (tmp_path / "n.png").read_bytes()
    np.savez(tmp_path / "samples.npz", training[:, :3])
    for flag, message in (
        ("--k=5", "The samples are 5x3 pixels, the training images 5x4; expected one size"),
        ("--k=0", "--k=0 is too few"),
        ("--weights=w", "--weights=w has no effect with --features=pixels"),
        (f"--out={tmp_path}/none/n.png", "none/n.png cannot be written"),
    ):
        with pytest.raises(UserError, match=message):
            nearest(*names, held, flag)
    assert (tmp_path / "n.png").read_bytes() == picture


def test_more_features_than_fit_into_memory_are_refused_with_the_largest_count(nearest, tmp_path, draw, monkeypatch):
    for name in ("training", "held", "samples"):
        np.savez(tmp_path / f"{name}.npz", draw.integers(0, 256, (9, 8, 4, 3), dtype=np.uint8))
    sets = (f"--training={tmp_path}/training.npz", f"--held-out={tmp_path}/held.npz")
    names = (tmp_path / "samples.npz", *sets, f"--out={tmp_path}/n.png")
    monkeypatch.setattr(nearest_images, "LARGEST_FEATURES", 7 * 8 * 4 * 3 * 8)
    with pytest.raises(UserError, match=r"\(pixels\) of 18 samples and held-out images take .*: lower --count to 3\.$"):
        nearest(*names)
    assert "3 samples" in nearest(*names, "--count=3")
    with pytest.raises(UserError, match="of 8 samples and held-out images"):
        nearest(*names, "--count=4")
    monkeypatch.setattr(nearest_images, "LARGEST_FEATURES", 8 * 4 * 3 * 8)
    with pytest.raises(UserError, match="leave pixels out of --features"):
        nearest(*names, "--count=1")


def test_runs_and_their_samples_may_be_urls(workdir, digits, nearest, bucket, tmp_path):
    rows, held = hold_out(digits, 0.1)
    samples, out = bucket / "run" / "samples" / "3-ddpm", f"--out={tmp_path}/n.png"
    with pytest.raises(
        UserError, match=r"samples/3-ddpm holds no samples \(.*\); give a folder that --mode=sample wrote"
    ):
        nearest(samples, out)
    with (samples / "samples.npz").open("wb") as file:
        np.savez(file, digits.images[rows[[5, 900]]])
    with pytest.raises(UserError, match="3-ddpm does not lie in the samples/ of a run; name the training images"):
        nearest(samples, out)
    (bucket / "run" / "config.json").write_text((workdir / "config.json").read_text())
    report = json.loads(nearest(samples, "--json", out))
    assert report["images"] == {"samples": 2, "held_out": len(held), "training": len(rows)}
    found = {each["sample"]: each["nearest"]["pixels"][0]["row"] for each in report["closest"]}
    assert found == dict(enumerate(rows[[5, 900]]))
    np.savez(tmp_path / "copies.npz", digits.images[rows[[5, 900]]])
    again = json.loads(nearest(tmp_path / "copies.npz", f"--training={bucket}/run", "--json", out))
    assert again == report
    with pytest.raises(UserError, match="there is no bucket nowhere; create it, or correct its name"):
        nearest(samples, "--training=gs://nowhere/run", out)


def test_samples_outside_a_run_and_statistics_are_refused(nearest, tmp_path):
    np.savez(tmp_path / "samples.npz", np.zeros((3, 4, 4, 3), np.uint8))
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(2), sigma=np.eye(2))
    out = f"--out={tmp_path}/n.png"
    with pytest.raises(UserError, match="does not lie in the samples/ of a run; name the training images"):
        nearest(tmp_path / "samples.npz", out)
    with pytest.raises(UserError, match="statistics.npz holds statistics; expected images"):
        nearest(tmp_path / "samples.npz", f"--training={tmp_path}/statistics.npz", out)
