import argparse
import json
import re
import runpy
import subprocess
import sys
from unittest.mock import MagicMock

import pytest
from PIL import Image

from ddpm_jax.errors import UserError
from scripts.benchmark import checked_flags
from scripts.benchmarks.chart import draw_comparisons
from scripts.benchmarks.peer import Peer
from tests.end_to_end.commands import ROOT
from tests.scripts.processes import run_script


@pytest.mark.slow
def test_data_prints_one_json_object():
    done = run_script("benchmark.py", "data", "--images=512", "--files=64", "--rounds=1", "--steps=0", "--json")
    facts = json.loads(done.stdout)
    assert facts["cache_to_device_images_per_second"] > 0 and facts["prepare_ratio"] > 0


def test_train_prints_the_work_and_its_rates():
    recipe = f"--config={ROOT}/configs/digits.py:smoke"
    done = run_script("benchmark.py", "train", recipe, "--batch=4", "--rounds=2", "--devices=1", "--json")
    facts = json.loads(done.stdout)
    ours = facts["ours"]
    assert facts["batch"] == 4 and facts["devices"].startswith("1 x cpu") and ours["compile_seconds"] > 0
    assert ours["gigaflop_per_second"] == pytest.approx(ours["gigaflop_per_step"] * ours["images_per_second"] / 4)
    assert 0 < ours["share_of_matrix_product"] < 1
    assert ours["peak_memory_mebibytes"] > 100 and "host_memory_mebibytes" not in ours
    assert not {"peer", "ratio", "memory_ratio"} & set(facts)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_resident_memory_counts_only_what_followed_its_reset():
    program = """if True:
        from scripts.benchmarks.resident import forget_peak, peak_mebibytes
        block = bytes(100 * 2**20).replace(b"\\0", b"x")
        del block
        forget_peak()
        before = peak_mebibytes()
        block = bytes(50 * 2**20).replace(b"\\0", b"x")
        del block
        print(before, peak_mebibytes())
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before < 60 and 45 < after - before < 110


def test_chart_draws_comparisons_and_refuses_other_files(tmp_path):
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
        (["data", "--config.seed=1"], "--config.seed=1 is not a flag of data"),
        (["train", "--rounds=0"], "--rounds=0 is out of range"),
        (["train", "--devices=0"], "--devices=0 is out of range"),
        (["train", "--batch=-1"], "--batch=-1 is out of range"),
        (["train", "--variants=eager"], "no effect without --peer"),
        (["train", "--peer=diffusers", "--variants=fast"], "--variants=fast do not exist; expected some of eager"),
    ],
)
def test_flags_without_effect_or_out_of_range_are_refused(flags, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *flags])
    with pytest.raises(UserError, match=words):
        checked_flags()


def test_what_is_no_interpreter_is_refused_as_the_peer(tmp_path):
    with pytest.raises(UserError, match="none cannot be run: No such file"):
        Peer(f"{tmp_path}/none", {"work": "train"})
    no_python = executable(tmp_path / "no-python", "exit 3")
    with pytest.raises(UserError, match="cannot be run: it ended with exit code 3; expected a Python interpreter"):
        Peer(no_python, {"work": "train"})


@pytest.mark.parametrize(
    ("work", "packages", "file"),
    [
        ("train", "torch, diffusers", "requirements-peers.txt"),
        ("sample", "torch, diffusers", "requirements-peers.txt"),
        ("features", "torch, torchvision, pytorch-fid, safetensors", "requirements-peers-fid.txt"),
    ],
)
def test_missing_packages_of_the_peer_are_named_with_the_one_file_that_lists_them(tmp_path, work, packages, file):
    listed = [re.split("[>=]", line)[0] for line in (ROOT / file).read_text().splitlines() if line[0] != "#"]
    assert set(packages.split(", ")) <= set(listed)
    bare = executable(tmp_path / "python", f'exec {sys.executable} -S "$@"')  # Without site-packages.
    with pytest.raises(UserError) as caught:
        Peer(bare, {"work": work})
    install = f"{bare} -m pip install -r {file}"
    assert str(caught.value) == f"The peer needs {packages}: {install}, or give another --peer-python."


def executable(path, line: str) -> str:
    """Writes a program of one line of shell, and returns its path."""
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return str(path)


def test_work_other_than_features_needs_no_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", MagicMock())
    monkeypatch.setitem(sys.modules, "torchvision", None)  # As if it were not installed.
    peer = runpy.run_path(str(ROOT / "scripts" / "benchmarks" / "pytorch.py"))
    assert peer["make_importable"]() is None


def test_sample_prints_one_json_object_with_the_rate_of_each_sampler():
    done = run_script(
        "benchmark.py", "sample", f"--config={ROOT}/configs/digits.py:smoke", "--batch=2", "--rounds=1", "--json"
    )
    facts = json.loads(done.stdout)
    rates = [name for name in facts if name.endswith("images_per_second")]
    assert [name.split("_8_")[0] for name in rates[:2]] == ["ddpm", "ddim"] and len(rates) == 5
    ratio = facts["ddim_8_images_per_second"] / facts["ddpm_8_images_per_second"]
    assert facts["ddim_over_ddpm"] == ratio > 0
