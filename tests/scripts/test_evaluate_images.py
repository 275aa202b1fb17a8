import json
import subprocess

import numpy as np
import pytest

from ddpm_jax.evaluation.statistics import METRICS
from tests.scripts.processes import run_script


def evaluate(*argv: object) -> subprocess.CompletedProcess[str]:
    return run_script("evaluate_images.py", *argv, "--features=pixels")


def test_two_sets_are_compared_and_saved_statistics_stand_for_the_first(tmp_path, draw):
    images = draw.integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "array.npz", images)
    done = evaluate(tmp_path / "array.npz", tmp_path / "array.npz", "--json", f"--save={tmp_path}/kept.npz")
    metrics = json.loads(done.stdout)
    assert metrics["fid"] == pytest.approx(0.0, abs=1e-9) and metrics["precision"] == 1.0
    assert metrics["protocol"]["fake"]["images"] == 30 and metrics["inception_score_mean"] is None
    assert metrics.keys() == {*METRICS, "protocol"}
    done = evaluate(tmp_path / "kept.npz", tmp_path / "array.npz")
    assert "FID-pixels" in done.stdout and "30 images of" in done.stdout
    np.savez(tmp_path / "small.npz", images[:, :2])
    done = evaluate(tmp_path / "array.npz", tmp_path / "small.npz")
    assert done.returncode == 2 and "pixels of 48 and 24 dimensions cannot be compared" in done.stderr


def test_both_sets_are_opened_before_one_is_measured(tmp_path):
    np.savez(tmp_path / "array.npz", np.zeros((3, 4, 4, 3), np.uint8))
    done = evaluate(tmp_path / "array.npz", tmp_path / "nothing", f"--save={tmp_path}/none.npz")
    assert done.returncode == 2 and "does not exist; give a folder" in done.stderr
    assert "array.npz:" not in done.stderr and not (tmp_path / "none.npz").exists()
