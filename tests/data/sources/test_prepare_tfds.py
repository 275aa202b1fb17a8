import sys

import pytest

from ddpm_jax.data.sources.prepare_tfds import INSTALL, main


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "")


def test_without_tensorflow_datasets_the_command_to_install_it_is_printed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert main(["mnist"]) == 2
    assert capsys.readouterr().out == f"tensorflow_datasets is not installed: {INSTALL}\n"


@pytest.mark.parametrize("failure", [None, "no network"])
def test_the_last_line_of_output_is_the_location_or_the_reason_for_the_failure(monkeypatch, capsys, tmp_path, failure):
    def prepare(*args):
        print("progress")
        return failure

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", pytest)
    monkeypatch.setattr("ddpm_jax.data.sources.prepare_tfds.prepare", prepare)
    assert main(["mnist", f"--data_dir={tmp_path}"]) == (2 if failure else 0)
    assert capsys.readouterr().out == f"{failure or f'mnist is prepared in {tmp_path}'}\n"
