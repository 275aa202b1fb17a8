import numpy as np
import pytest

from tests.data.pictures import encoded, noise, write


@pytest.fixture
def photos(tmp_path, draw: np.random.Generator):
    """Twelve PNG files in two classes, 10x14 pixels."""
    for i in range(12):
        write(tmp_path / "photos" / ("cats" if i % 2 else "dogs") / f"{i:02d}.png", encoded(noise(draw)))
    return tmp_path / "photos"
