"""scripts/check_accelerator.py at toy size on a CPU, and what it does about parts that fail or hang."""

import hashlib
import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from PIL import Image

from ddpm_jax.errors import UserError
from ddpm_jax.interop.safetensors_file import read_file
from scripts.accelerator import laws, speed, training
from scripts.accelerator.parts import Check, Failed, OutOfTime, Part, Skipped, output_of, run_part, run_parts
from scripts.accelerator.report import markdown
from scripts.check_accelerator import GROUPS, checked_flags
from tests.end_to_end.commands import assert_same_bits
from tests.interop.toy import random_run, script
from tests.scripts.processes import run_script


def check(tmp_path, seconds: float = 60.0, **fields) -> Check:
    settings = {"data": None, "weights": None, "peer_python": sys.executable, "quick": True, **fields}
    return Check(out=tmp_path, folder=tmp_path, end=time.monotonic() + seconds, **settings)


@pytest.mark.slow
def test_a_quick_check_reports_every_part_also_where_one_crashes(tmp_path):
    python, out = tmp_path / "python", tmp_path / "out"
    python.write_text("#!/bin/sh\necho The driver is gone. >&2\nexit 3\n")
    python.chmod(0o755)
    done = run_script("check_accelerator.py", f"--out={out}", "--quick", "--json", f"--peer-python={python}")
    assert done.returncode == 1, done.stderr
    facts = json.loads(done.stdout)
    assert facts == json.loads((out / "check.json").read_text())
    parts = {part["part"]: part for part in facts["parts"]}
    assert list(parts) == [part.name for _, group in GROUPS for part in group] and len(done.stderr.splitlines()) >= 18
    failed = [part.name for part in speed.PEER_PARTS]
    for name, part in parts.items():
        if name in failed:
            assert (part["status"], part["reason"]) == ("failed", "exit code 3: The driver is gone.")
        else:
            assert part["status"] == "ok" or (part["status"] == "skipped" and part["reason"]), part
    for part in (laws.PARTS[1], laws.PARTS[2], laws.PARTS[-1]):
        assert all(law["holds"] for law in parts[part.name]["results"]["laws"].values()), part.name
    assert parts["train cifar10, batch 128"]["results"]["ours"]["images_per_second"] > 0
    assert parts["sample cifar10, batch 256"]["results"]["peak_memory_mebibytes"] > 100
    trained = parts["train"]["results"]
    assert trained["steps"] > 0 and 0 < trained["train_loss"]["value"] < 2
    assert parts["FID, newest checkpoint"]["results"]["fid"] > 0
    with Image.open(out / "grid.png") as grid:
        assert grid.width == grid.height >= 64  # 8 x 8 digits of 8 x 8 pixels.
    joined = join(out, parts["EMA parameters"]["results"])
    assert read_file(joined).step == trained["steps"]
    report = (out / "check.md").read_text()
    assert "| train | ok |" in report and "The driver is gone." in report and "Toy sizes" in report


def join(out, facts):
    """The file whose pieces are in a folder, joined as the report says."""
    subprocess.run(f"cat {training.MODEL}.[0-9]* >{training.MODEL}", shell=True, cwd=out, check=True)
    content = (out / training.MODEL).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (facts["bytes"], facts["sha256"])
    return out / training.MODEL


def test_pieces_join_to_the_parameters_in_bfloat16(tmp_path):
    _, _, ema = random_run(tmp_path / "run")
    whole = tmp_path / training.MODEL
    done = script("scripts/export_safetensors.py", tmp_path / "run", whole, "--ema-only", "--bfloat16")
    assert done.returncode == 0, done.stderr
    (tmp_path / "out").mkdir()
    facts = training.split(whole, tmp_path / "out", piece_bytes=whole.stat().st_size // 11)
    assert len(facts["pieces"]) == 12  # Their names sort by number: .00 to .11.
    rounded = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16).astype(jnp.float32), ema)
    assert_same_bits(read_file(join(tmp_path / "out", facts)).tree("ema"), rounded)
    assert training.PIECE_BYTES < 16 * 2**20


def test_a_part_that_fails_or_hangs_is_reported_and_the_others_run(tmp_path):
    def program(text):
        return lambda _, seconds: json.loads(output_of(["-c", text], seconds))

    def skipped(_, seconds):
        raise Skipped("not here")

    parts = [
        Part("hangs", program("import time; print('Compiling', file=__import__('sys').stderr); time.sleep(60)"), 0.2),
        Part("crashes", program("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")),
        Part("raises", program("raise RuntimeError('no device')")),
        Part("prints no JSON", program("print('Segmentation fault')")),
        Part("skipped", skipped),
        Part("works", program("print('{\"answer\": 42}')")),
    ]
    checked = check(tmp_path)
    reports = list(run_parts(checked, [(8.0, parts)]))
    assert [report["status"] for report in reports] == ["out of time", *["failed"] * 3, "skipped", "ok"]
    reasons = ("not ready after 2 s; its last words: Compiling", "SIGSEGV", "no device", "JSONDecodeError", "not here")
    for report, words in zip(reports[:-1], reasons, strict=True):
        assert words in report["reason"], report
    assert checked.results == {"works": {"answer": 42}} and reports[-1]["results"] == {"answer": 42}
    named = {**reports[1], "part": "device"}
    facts = {"parts": [named], "date": "2026-01-01", "commit": None, "quick": False, "seconds": 1.0}
    assert "Nothing was measured." in markdown(facts) and "| device | failed |" in markdown(facts)
    (late,) = run_parts(check(tmp_path, seconds=0.0), [(8.0, parts[-1:])])
    assert (late["status"], late["reason"]) == ("out of time", "no time was left to start it")


def test_a_command_is_stopped_with_time_to_save(tmp_path):
    program = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit('saved')); time.sleep(60)"
    with pytest.raises(Failed, match="exit code 1: saved"):
        output_of(["-c", program], 3.0, grace=1.5)
    assert output_of(["-c", program], 3.0, grace=1.5, codes=(1,)) == ""
    with pytest.raises(OutOfTime, match="no time was left"):
        output_of(["-c", program], 1.0, grace=1.5)


def test_a_broken_law_fails_its_part(monkeypatch, tmp_path):
    output = json.dumps({"laws": {"x = y": {"error": 0.5, "limit": 0.1, "holds": False}}})
    monkeypatch.setattr(laws, "output_of", lambda *_: output)
    report = run_part(check(tmp_path), laws.PARTS[1], 1.0)
    assert (report["status"], report["reason"]) == ("failed", "does not hold: x = y (error 0.5)")


def test_parts_without_their_input_are_skipped_with_the_flag_that_is_missing(tmp_path):
    with pytest.raises(Skipped, match="give --data=cifar10.npz"):
        training.recipe_flags(check(tmp_path, quick=False))
    with pytest.raises(Skipped, match="training left no checkpoint"):
        training.sample(check(tmp_path), 60.0)
    without = tmp_path / "python"
    without.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'diffusers'\" >&2\nexit 1\n")
    without.chmod(0o755)
    report = run_part(check(tmp_path, peer_python=str(without)), speed.PEER_PARTS[0], 60.0)
    assert (report["status"], report["reason"]) == ("skipped", "not compared: 'diffusers' is not installed")


def test_about_three_checkpoints_are_evaluated(tmp_path):
    checked = check(tmp_path)
    assert training.checkpoint_interval(checked, 180.0) == 500
    checked.results["train cifar10, batch 128"] = {"ours": {"images_per_second": 2_560.0}}
    steps = 2_560.0 / 128 * 180.0
    assert 3 <= steps / training.checkpoint_interval(checked, 180.0) < 4
    checked.results["sample cifar10, batch 256"] = {"images_per_second": 10.0}
    assert (training.sample_count(checked, 120.0), training.sample_count(checked, 1e6)) == (300, 2_000)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--data=none.npz", r"--data=none.npz is not a file; expected an .npz"),
        ("--weights=none", "--weights=none is not a file"),
        ("--minutes=0.5", "--minutes=0.5 is out of range; expected 1 to 600"),
        ("--minutes=nan", "--minutes=nan is out of range"),
        ("--peer-python=none/python", "--peer-python=none/python cannot be run"),
        ("--out=.", "is not an empty folder; choose a new one"),
    ],
)
def test_wrong_flags_are_refused(flag, words, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["check_accelerator.py", f"--out={tmp_path}/out", flag])
    with pytest.raises(UserError, match=words):
        checked_flags()
    assert not (tmp_path / "out").exists()
