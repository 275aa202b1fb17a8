"""--mode=sample on a run that the command line trained."""

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import config_of
from ddpm_jax.generation.output import shown_grid
from tests.commands.sampled import newest, sample

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
