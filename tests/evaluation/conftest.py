import pytest
from safetensors.numpy import save_file

from tests.evaluation.weight_files import random_weights


@pytest.fixture
def stem(tmp_path, draw):
    path = tmp_path / "inception.safetensors"
    save_file(random_weights(draw, 192), path)
    return path
