"""Sets as the Hugging Face hub and clusters have them: Parquet files and WebDataset's tars."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_parquet(path: Path, names: Sequence[str] | None = None, group: int = 1000, **columns: Sequence[Any]) -> Path:
    """Writes columns as a Parquet file; names: of the numbers in `label`, as the library `datasets` has them."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(columns)
    if names is not None:
        about = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=group)
    return path


def tar_of(members: Mapping[str, bytes | dict | str]) -> bytes:
    """A tar of files by name, whose contents are bytes, text, or JSON."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            if not isinstance(content, bytes):
                content = (content if isinstance(content, str) else json.dumps(content)).encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()
