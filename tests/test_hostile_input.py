"""Any content of a file or flag is either read or refused with a UserError: no other error, and no code is run.

For many more cases: pytest tests/test_hostile_input.py --hypothesis-profile=long
"""

import csv
import io
import json
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from ddpm_jax.config import Config, config_of, from_json, load_recipe, override, to_json
from ddpm_jax.config.sections import Data
from ddpm_jax.data.decode import UNREADABLE, Decoding, decode
from ddpm_jax.data.filters import evaluate_filter
from ddpm_jax.data.sources.arrays import open_arrays
from ddpm_jax.data.sources.folder import open_folder
from ddpm_jax.data.sources.parquet import open_parquet
from ddpm_jax.data.sources.webdataset import open_webdataset
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.results import read_results
from ddpm_jax.evaluation.statistics import load_statistics
from ddpm_jax.interop.tensors import TensorFile
from ddpm_jax.runtime.locks import newest_job
from ddpm_jax.training.seals import DamagedCheckpoint, verify
from ddpm_jax.workdir import images_trained_on, read_config, read_label_names
from tests.data.hub import tar_of, write_parquet
from tests.end_to_end.commands import ROOT

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)


def image(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind)
    return file.getvalue()


def arrays(**named: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **named)
    return file.getvalue()


def zipped(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "/").replace("DOT", "."), content)
    return file.getvalue()


def parquet() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        images = [{"bytes": image("PNG"), "path": "a.png"}] * 3
        file = write_parquet(Path(folder, "a.parquet"), ["cat", "dog"], group=2, image=images, label=[0, 1, 0])
        return file.read_bytes()


def one_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.stack([PIXELS] * 3))
    return file.getvalue()


def table() -> bytes:
    file = io.StringIO()
    csv.writer(file).writerows([["file_name", "label"], ["a.png", "cat"], ["b.png", "dog"]])
    return file.getvalue().encode()


def read_decoded(path: Path) -> None:
    with suppress(*UNREADABLE):
        assert decode(path.read_bytes(), Decoding(5, 3)).shape == (5, 5, 3)


def read_collection(path: Path, source) -> None:
    collection = source(Data(path=str(path), image_size=5))
    for row in range(min(len(collection.names), 20)):
        with suppress(*UNREADABLE):
            decode(collection.read(row), Decoding(5, 3))


def read_table(path: Path) -> None:
    for name in "ab":
        (path.parent / f"{name}.png").write_bytes(image("PNG"))
    read_collection(path.parent, open_folder)


def read_tensors(path: Path) -> None:
    file = TensorFile(path)
    for name in file.shapes:
        file.load(name)


def read_holder(path: Path) -> None:
    with newest_job(path) as confirm:
        confirm()


def read_seal(path: Path) -> None:
    with pytest.raises(DamagedCheckpoint):
        verify(path.parent)


STATISTICS = {"mu": np.zeros(2), "sigma": np.eye(2), "count": np.array(9), "score": np.ones(2)}
RESULTS = {"ddim-0a": {"fid": 1.5, "protocol": {"distance": "FID-64", "real": {}, "drawn": {}}}}
FILES = {
    "image.png": (image("PNG"), read_decoded),
    "image.jpg": (image("JPEG"), read_decoded),
    "image.gif": (image("GIF"), read_decoded),
    "image.webp": (image("WEBP"), read_decoded),
    "image.bmp": (image("BMP"), read_decoded),
    "photos.zip": (zipped(catsDOTzip=b"", cats_aDOTpng=image("PNG"), dogs_bDOTjpg=image("JPEG")),) * 2,
    "photos.npz": (arrays(images=np.stack([PIXELS] * 3), labels=np.arange(3)),) * 2,
    "photos.npy": (one_array(),) * 2,
    "photos.tar": (
        tar_of({"a.jpg": image("JPEG"), "a.cls": "1", "a.json": {"round": True}, "b.png": b"", "b.cls": "2"}),
    )
    * 2,
    "photos.parquet": (parquet(),) * 2,
    "labels.csv": (table(), read_table),
    "metadata.jsonl": (b'{"file_name": "a.png", "label": "cat"}\n{"file_name": "b.png", "young": true}\n', read_table),
    "model.safetensors": (save({"a": np.ones((2, 3), np.float32)}, {"format": "ddpm_jax"}), read_tensors),
    "config.json": (to_json(Config()).encode(), lambda path: read_config(path.parent)),
    "data.json": (
        b'{"images": 9, "crc32": 7, "labels": 5, "kind": "pixels", "ordered": 3, "unordered": 4}',
        lambda path: images_trained_on(path.parent),
    ),
    ".train.holder.json": (b'{"host": "a", "process": 7, "since": "now", "token": "b"}', read_holder),
    "labels.json": (b'["cat", "dog"]', lambda path: read_label_names(path.parent)),
    "statistics.npz": (arrays(**STATISTICS), lambda path: load_statistics(path, "pixels")),
    "7.json": (json.dumps(RESULTS).encode(), lambda path: read_results(path.parent, 7)),
    "SHA256SUMS": (f"{'0' * 64}  config/metadata\n".encode(), read_seal),
}
NESTED = b"[" * 200_000  # Deeper than Python's parser can recurse.
SOURCES = {
    "photos.zip": open_folder,
    "photos.npz": open_arrays,
    "photos.npy": open_arrays,
    "photos.tar": open_webdataset,
    "photos.parquet": open_parquet,
}


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """The content with some bytes changed, removed, repeated or inserted."""
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 40)))
        kind = draw(st.sampled_from(["change", "cut", "repeat", "insert", "end"]))
        if kind == "end":
            content = content[:start]
        elif kind == "repeat":
            content = content[:end] + content[start:]
        else:
            new = b"" if kind == "cut" else draw(st.binary(max_size=end - start if kind == "change" else 20))
            content = content[:start] + new + content[start if kind == "insert" else start + len(new) :]
    return content


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(name, data):
    content, read = FILES[name]
    with tempfile.TemporaryDirectory() as outside:
        folder = Path(outside, "inside")
        folder.mkdir()
        path = folder / name
        path.write_bytes(data.draw(st.one_of(damaged(content), st.binary(max_size=200), st.just(NESTED))))
        try:
            if name in SOURCES:
                read_collection(path, SOURCES[name])
            else:
                read(path)
        except UserError as error:
            assert str(error) and "\n" not in str(error)
        there = {file for file in Path(outside).rglob("*") if file.is_file()}
        assert there <= {path, folder / "a.png", folder / "b.png"}


@given(st.text(alphabet=st.sampled_from("ab&|~()'\" \t")))
@example("(" * 5000)
@example("~" * 5000 + "a")
@example("a" * 100_000)
def test_any_filter_is_evaluated_or_refused(text):
    holds = {"a": np.array([True, False]), "b": np.array([True, True])}
    try:
        assert evaluate_filter(text, holds, holds.__getitem__).shape == (2,)
    except UserError as error:
        assert "data.filter" in str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(vars(Config()))), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
@example({"model": {"multipliers": [1] * 10_000}})
@example({"model": {"channels": 10**400}})
@example({"seed": float("nan")})
def test_any_json_is_a_configuration_or_refused(tree):
    try:
        assert isinstance(from_json(json.dumps(tree), "config.json"), Config)
    except UserError as error:
        assert "config.json" in str(error)


NAMES = "seed model.multipliers data.crop sample.timesteps data.flip model.dropout data.filter x.y"
FIELDS = st.sampled_from([*NAMES.split(), ""])


@settings(max_examples=30)
@given(FIELDS, st.text(max_size=30))
@example("model.multipliers", "(" * 200)
@example("model.multipliers", "__import__('os').system('touch hacked')")
@example("sample.timesteps", "9" * 5000)
@example("seed", "1e400")
@example("seed", "9" * 5000)
@example("sample.timesteps", "(1,)" * 50)
@example("sample.timesteps", "[" * 100_000)
def test_any_flag_sets_a_field_or_is_refused(field, value):
    try:
        recipe = load_recipe(f"{ROOT}/configs/digits.py")
        assert isinstance(config_of(override(recipe, [f"--config.{field}={value}"])), Config)
    except UserError as error:
        assert str(error)
    assert not Path("hacked").exists()
