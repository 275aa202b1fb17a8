"""Prepares a TensorFlow Datasets set as ArrayRecord: python -m ddpm_jax.data.sources.prepare_tfds mnist

This is the only file that uses TensorFlow. It runs in a separate process and needs only requirements-tfds.txt. Without
a network, put the original files into <data_dir>/downloads/manual, or into --manual_dir.
"""

import argparse
import difflib
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

INSTALL = "pip install tensorflow tensorflow-datasets importlib_resources beautifulsoup4"
"""Installs what requirements-tfds.txt lists, which a wheel does not contain; not every machine has tensorflow-cpu."""

TRIES = 4
"""Attempts at a download; the default of ten takes minutes to fail without a network."""


def main(argv: list[str] | None = None) -> int:
    """Prepares the set and prints its location; on failure prints the reason in one line and returns 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("name", help="such as mnist, celeb_a or name/config:1.0.0")
    parser.add_argument("--data_dir", default=os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    parser.add_argument("--manual_dir", help="a folder with the original files; <data_dir>/downloads/manual by default")
    flags = parser.parse_args(argv)
    # TensorFlow must not reserve GPU memory, which training needs.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow_datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"{error.name} is not installed: {INSTALL}")
        return 2
    data_dir = Path(flags.data_dir).expanduser()
    with redirect_stdout(sys.stderr):  # Only the result goes to standard output.
        failure = prepare(tensorflow_datasets, flags.name, data_dir, flags.manual_dir)
    print(failure or f"{flags.name} is prepared in {data_dir}")
    return 2 if failure else 0


def prepare(tfds: Any, name: str, data_dir: Path, manual_dir: str | None) -> str | None:
    """Downloads and prepares a set; returns None, or the reason for a failure."""
    from tensorflow_datasets.core.download import downloader  # pyright: ignore[reportMissingImports]

    downloader.MAX_RETRIES = TRIES
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False))
        hint = f"did you mean {' or '.join(near)}?" if near else "see tensorflow.org/datasets/catalog."
        return f"TensorFlow Datasets has no set of that name; {hint}"
    # An unknown configuration or version, or a set that was prepared in another format.
    except (ValueError, AssertionError) as error:
        return _line(error)
    download = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    manual = Path(manual_dir) if manual_dir else data_dir / "downloads" / "manual"
    files = sorted({info.filename for info in (builder.url_infos or {}).values() if info.filename})
    by_hand = f"; or put the original files ({', '.join(files[:8])}) into {manual}" if files else ""
    try:
        builder.download_and_prepare(download_config=download)
    except _preparation_errors() as error:
        return _line(error) + by_hand
    return None


def _preparation_errors() -> tuple[type[BaseException], ...]:
    """Exceptions of TensorFlow Datasets for missing networks, quotas and full disks, and damaged files."""
    import tensorflow as tf  # pyright: ignore[reportMissingImports, reportMissingModuleSource]
    from tensorflow_datasets.core.download import (  # pyright: ignore[reportMissingImports]
        download_manager,
        extractor,
        util,
    )

    own = (download_manager.NonMatchingChecksumError, extractor.ExtractError, util.DownloadError, tf.errors.OpError)
    return (*own, OSError, ValueError, AssertionError, ImportError)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


if __name__ == "__main__":
    sys.exit(main())
