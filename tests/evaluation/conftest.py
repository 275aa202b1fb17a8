import pytest
from safetensors.numpy import save_file

from tests.evaluation.weight_files import made_up


@pytest.fixture
def stem(tmp_path, draw):
    path = tmp_path / "inception.safetensors"
    save_file(made_up(draw, 192), path)
    return path
