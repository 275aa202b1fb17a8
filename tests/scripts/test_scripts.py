"""scripts/prepare_data.py and scripts/benchmark.py as a person runs them."""

import argparse
import json
import runpy
import subprocess
import sys
from unittest.mock import MagicMock

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.errors import UserError
from scripts.benchmark import checked_flags
from scripts.benchmarks.chart import draw_comparisons
from scripts.benchmarks.peer import Peer
from tests.data.pictures import encoded, noise, write
from tests.end_to_end.commands import ROOT


def run(script: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, ROOT / "scripts" / script, *flags], capture_output=True, text=True)


@pytest.fixture
def photos(tmp_path, draw):
    for i in range(9):
        write(tmp_path / "photos" / ("cats" if i % 3 else "dogs") / f"{i}.png", encoded(noise(draw, 8, 8)))
    return tmp_path / "photos"


def prepare(photos, *flags: str) -> subprocess.CompletedProcess:
    where = [f"--config.data.path={photos}", f"--config.data.cache={photos.parent}/cache", "--config.data.image_size=8"]
    return run("prepare_data.py", *where, *flags)


def test_it_prepares_counts_measures_and_draws(photos):
    done = prepare(photos, "--json")
    facts = json.loads(done.stdout)
    files = sorted((photos / "cats").iterdir()) + sorted((photos / "dogs").iterdir())
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    assert (facts["images"], facts["shape"], facts["classes"]) == (9, [8, 8, 3], {"cats": 6, "dogs": 3})
    np.testing.assert_allclose(facts["mean"], (pixels / 255).mean(axis=(0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(facts["std"], (pixels / 255).std(axis=(0, 1, 2)), atol=1e-4)
    stored = np.fromfile(f"{facts['cache']}/images.u8", np.uint8).reshape(pixels.shape)
    np.testing.assert_array_equal(stored, pixels)
    with Image.open(facts["contact_sheet"]) as record:
        assert record.width > 3 * 64

    again = prepare(photos, f"--sheet={photos.parent}/sheet.png")
    assert again.returncode == 0 and "cats 6, dogs 3" in again.stdout
    assert (photos.parent / "sheet.png").exists()


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


@pytest.mark.slow
def test_the_benchmark_of_the_data_prints_one_json_object():
    done = run("benchmark.py", "data", "--images=512", "--files=64", "--rounds=1", "--steps=0", "--json")
    facts = json.loads(done.stdout)
    assert facts["cache_to_device_images_per_second"] > 0 and facts["prepare_ratio"] > 0


def test_the_benchmark_of_training_says_what_and_how_fast():
    recipe = f"--config={ROOT}/configs/digits.py:smoke"
    done = run("benchmark.py", "train", recipe, "--batch=4", "--rounds=2", "--devices=1", "--json")
    facts = json.loads(done.stdout)
    ours = facts["ours"]
    assert facts["batch"] == 4 and facts["devices"].startswith("1 x cpu") and ours["compile_seconds"] > 0
    assert ours["gigaflop_per_second"] == pytest.approx(ours["gigaflop_per_step"] * ours["images_per_second"] / 4)
    assert 0 < ours["share_of_matrix_product"] < 1
    assert "peer" not in facts and "ratio" not in facts


def test_comparisons_become_a_picture_and_anything_else_is_refused(tmp_path):
    rates = {"images_per_second": 8.0, "spread": 0.1}
    peer = {"name": "diffusers 1.0", "variants": {"eager": rates, "compiled": {**rates, "images_per_second": 10.0}}}
    (tmp_path / "batch_8.json").write_text(json.dumps({"ours": rates, "peer": peer}))
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "batch_8.json").write_text((tmp_path / "batch_8.json").read_text())
    results = [tmp_path / "batch_8.json", tmp_path / "again" / "batch_8.json"]
    flags = argparse.Namespace(picture=tmp_path / "one.png", results=results[:1])
    draw_comparisons(flags)
    flags = argparse.Namespace(picture=tmp_path / "chart.png", results=results)
    assert draw_comparisons(flags) == {"chart": str(tmp_path / "chart.png")}
    with Image.open(tmp_path / "chart.png") as both, Image.open(tmp_path / "one.png") as one:
        assert both.height > 1.5 * one.height  # Files of the same name are two panels.
    with pytest.raises(UserError, match="nowhere/chart.png cannot be written"):
        draw_comparisons(argparse.Namespace(picture=tmp_path / "nowhere" / "chart.png", results=results))
    for text in ("no JSON", "[]", '{"ours": {}}', '{"ours": {}, "peer": {"name": "", "variants": {}}}'):
        (tmp_path / "batch_8.json").write_text(text)
        with pytest.raises(UserError, match="batch_8.json holds no comparison"):
            draw_comparisons(flags)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["data", "--config.seed=1"], "--config.seed=1 is no flag of data"),
        (["train", "--rounds=0"], "--rounds=0 is out of range"),
        (["train", "--devices=0"], "--devices=0 is out of range"),
        (["train", "--batch=-1"], "--batch=-1 is out of range"),
        (["train", "--variants=eager"], "no effect without --peer"),
        (["train", "--peer=diffusers", "--variants=fast"], "--variants=fast do not exist; expected some of eager"),
    ],
)
def test_flags_of_the_benchmark_that_mean_nothing_are_refused(flags, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *flags])
    with pytest.raises(UserError, match=words):
        checked_flags()


def test_the_benchmark_says_what_a_peer_without_pytorch_lacks(tmp_path):
    with pytest.raises(UserError, match="none cannot be run: No such file"):
        Peer(f"{tmp_path}/none", {})
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(UserError, match="The peer ended with exit code 3.*pip install -r requirements-peers"):
        Peer(str(python), {})


def test_only_the_comparison_of_features_needs_torchvision(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", MagicMock())
    monkeypatch.setitem(sys.modules, "torchvision", None)  # As where it is not installed.
    peer = runpy.run_path(str(ROOT / "scripts" / "benchmarks" / "pytorch.py"))
    assert peer["make_importable"]() is None
    (tmp_path / "python").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    for work, needs_fid in ("train", False), ("features", True):
        with pytest.raises(UserError) as caught:
            Peer(f"{tmp_path}/python", {"work": work})
        assert ("requirements-peers-fid.txt" in str(caught.value)) == needs_fid


def test_the_benchmark_of_the_samplers_prints_one_json_object():
    done = run(
        "benchmark.py", "sample", f"--config={ROOT}/configs/digits.py:smoke", "--batch=2", "--rounds=1", "--json"
    )
    facts = json.loads(done.stdout)
    rates = [name for name in facts if name.endswith("images_per_second")]
    assert [name.split("_8_")[0] for name in rates[:2]] == ["ddpm", "ddim"] and len(rates) == 4
    ratio = facts["ddim_8_images_per_second"] / facts["ddpm_8_images_per_second"]
    assert facts["ddim_over_ddpm"] == ratio > 0
