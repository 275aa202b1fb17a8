"""TensorFlow Datasets: prepared by a Python with TensorFlow, read and trained on by one without.

Needs an interpreter with requirements-tfds.txt: that of .venv-tfds in the project's folder, or DDPM_JAX_TFDS_PYTHON.
"""

import gzip
import importlib.util
import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.commands import cli
from ddpm_jax.config import config_of, load_recipe, override
from ddpm_jax.data.open import open_dataset
from tests.data.faces import ATTRIBUTES
from tests.end_to_end.commands import ROOT, scalars

PYTHON = Path(os.environ.get("DDPM_JAX_TFDS_PYTHON") or ROOT / ".venv-tfds" / "bin" / "python")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"{PYTHON} does not exist; see the docstring of this file"),
]

# Puts files into the download manager's folder, in place of the published ones.
AS_IF_DOWNLOADED = """
import sys
from pathlib import Path
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import resource
name, downloads, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
for url, info in tfds.builder_cls(name).url_infos.items():
    if (made := folder / info.filename).is_file():
        place = downloads / name / resource.Resource(url=url).relative_download_dir
        path = place / resource.get_dl_fname(url, info.checksum)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.read_bytes())
        resource.write_info_file(
            url=url, path=path, dataset_name=name, original_fname=info.filename, url_info=info
        )
"""
# Writes TFDS's mock data to disk by the real builder.
MOCKED = """
import sys
from unittest import mock
import tensorflow_datasets as tfds
from tensorflow_datasets.testing.mocking import RandomFakeGenerator
builder_class = tfds.builder_cls(sys.argv[1])
def generate(self, count):
    fake = RandomFakeGenerator(self.info.features, num_examples=count)
    for number in range(count):
        yield number, fake[number]
def split(self, manager):
    return {"train": self._generate_examples(12), "test": self._generate_examples(4)}
with mock.patch.multiple(builder_class, _split_generators=split, _generate_examples=generate):
    download = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=2)
    builder_class(data_dir=sys.argv[2], file_format="array_record").download_and_prepare(download_config=download)
"""


def run(*command: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([PYTHON, *map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=500)


def write_mnist(folder: Path) -> None:
    """Writes MNIST's four files in their real format and size; each image is a flat grey of 20 times its label."""
    folder.mkdir()
    for name, count in (("train", 60_000), ("t10k", 10_000)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.broadcast_to(labels[:, None, None] * np.uint8(20), (count, 28, 28))
        files = {"images-idx3": struct.pack(">iiii", 2051, count, 28, 28) + images.tobytes()}
        files["labels-idx1"] = struct.pack(">ii", 2049, count) + labels.tobytes()
        for kind, content in files.items():
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(content, 1))


def test_mnist_prepared_by_its_builder_is_trained_on_without_tensorflow(tmp_path):
    write_mnist(tmp_path / "files")
    sets = tmp_path / "sets"
    filled = run("-c", AS_IF_DOWNLOADED, "mnist", sets / "downloads", tmp_path / "files")
    assert filled.returncode == 0
    prepared = run("-m", "ddpm_jax.data.sources.prepare_tfds", "mnist", "--data_dir", sets)
    assert (prepared.returncode, prepared.stdout) == (0, f"mnist is prepared in {sets}\n")

    assert importlib.util.find_spec("tensorflow") is None
    settings = {"data.source": "tfds", "data.path": sets, "data.cache": tmp_path / "cache", "train.steps": 3}
    settings |= {"model.channels": 8, "model.norm_groups": 4, "model.blocks": 1, "data.batch_size": 8, "log.every": 1}
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    recipe = f"{ROOT}/configs/mnist.py"
    dataset = open_dataset(config_of(override(load_recipe(recipe), flags)), labelled=True)
    assert dataset.images.shape == (60_000, 28, 28, 1) and dataset.names == tuple("0123456789")
    np.testing.assert_array_equal(dataset.images[:, 5, 5, 0], dataset.labels * 20)
    assert np.bincount(dataset.labels).tolist() == [6000] * 10
    flags += ["--config.log.preview_every=0", "--config.log.validate_every=0"]
    assert cli.main(["main.py", f"--config={recipe}", f"--workdir={tmp_path}/run", *flags]) == 0
    assert sorted(scalars(tmp_path / "run", "train/loss")) == [1, 2, 3]


def test_mock_faces_are_read_with_their_attributes(tmp_path):
    assert run("-c", MOCKED, "celeb_a", tmp_path / "sets").returncode == 0
    where = {"name": "celeb_a", "path": str(tmp_path / "sets"), "cache": str(tmp_path / "cache"), "image_size": 32}
    chosen = {"attributes": "Smiling,Male", "crop": [25, 57, 153, 185]}
    dataset = open_dataset(config_of({"data": where | chosen, "model": {"attributes": 2}}))
    assert dataset.images.shape == (12, 32, 32, 3) and dataset.names == ("Smiling", "Male")
    assert set(np.unique(dataset.labels)) <= {0, 1}
    everything = open_dataset(config_of({"data": where | {"split": "test"}, "model": {"attributes": 40}}))
    assert len(everything.images) == 4 and everything.names == ATTRIBUTES


def test_unknown_sets_and_wrong_files_are_refused_in_one_line(tmp_path):
    unknown = run("-m", "ddpm_jax.data.sources.prepare_tfds", "mnits", "--data_dir", tmp_path)
    assert unknown.returncode == 2 and "no set of that name; did you mean mnist" in unknown.stdout
    write_mnist(tmp_path / "files")
    wrong = run(
        "-m", "ddpm_jax.data.sources.prepare_tfds", "mnist", "--data_dir", tmp_path, "--manual_dir", tmp_path / "files"
    )
    assert wrong.returncode == 2 and wrong.stdout.count("\n") == 1
    assert "wrong checksum" in wrong.stdout and "or put the original files (t10k-images-idx3" in wrong.stdout
