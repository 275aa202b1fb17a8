import pytest

from ddpm_jax.interop.diffusers_folder import write_folder
from tests.interop.toy import config, random_params


@pytest.fixture
def folder(tmp_path):
    settings = config()
    write_folder(settings, random_params(settings), tmp_path / "model", names=[], card="A card.", grid=None)
    return tmp_path / "model"
