"""Sets in the layout of TensorFlow Datasets, written without TensorFlow."""

import json
from pathlib import Path

import numpy as np

from ddpm_jax.data.sources.example import Example, Features
from tests.data.pictures import encoded, noise


def write_example(features: Features) -> bytes:
    """A serialized Example with these features, each a list of one kind."""
    example = Example()
    for name, values in features.items():
        kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])]
        getattr(example.features.feature[name], kind).value.extend(values)
    return example.SerializeToString()


def write_shard(path: Path, records: list[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def write_split(folder: Path, name: str, split: str, records: list[Features], shards: int) -> dict:
    """The shards of a split; returns its entry of dataset_info.json."""
    parts = np.array_split(np.arange(len(records)), shards)
    for i, part in enumerate(parts):
        shard = folder / f"{name}-{split}.array_record-{i:05d}-of-{shards:05d}"
        write_shard(shard, [write_example(records[row]) for row in part])
    return {"name": split, "shardLengths": [str(len(part)) for part in parts]}


def write_set(folder: Path, name: str, splits: dict[str, list[Features]], shards: int = 2) -> Path:
    """A prepared set of these records, as <folder>/<name>/1.0.0; returns that folder."""
    place = folder / name / "1.0.0"
    infos = [write_split(place, name, split, records, shards) for split, records in splits.items()]
    about = {"name": name, "version": "1.0.0", "fileFormat": "array_record", "splits": infos}
    (place / "dataset_info.json").write_text(json.dumps(about))
    return place


def digits(draw: np.random.Generator, count: int) -> list[Features]:
    """Records like those of mnist: a greyscale PNG and a label."""
    return [{"image": [encoded(noise(draw, 8, 8, 1)[..., 0])], "label": [i % 3]} for i in range(count)]
