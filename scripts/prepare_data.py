"""Decodes a data set into the cache before training, and summarizes it.

    python scripts/prepare_data.py --config=configs/celeba64.py --config.data.path=celeba/
    python scripts/prepare_data.py --config.data.path=photos/ --config.data.image_size=64 --sheet=photos.png

Prints the number, size, classes, mean and standard deviation of the images, and the files that were left out with the
reasons, and writes a contact sheet of some of them. With --json, prints one JSON object instead, with all names.
If more than 1% of the images cannot be read, lists all of these instead, and exits with code 2.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

SHOWN = 100
LISTED = 20
"""Names for each reason to leave files out."""
CHUNK_BYTES = 2**24


def main() -> None:
    """Parses the flags, prepares the data, prints the summary."""
    from ddpm_jax.config import check_overrides, config_of, defaults, load_recipe, override
    from ddpm_jax.data.open import open_dataset
    from ddpm_jax.data.prepare import TooManyUnreadable
    from ddpm_jax.errors import UserError, abbreviated, printable, quoted

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", metavar="FILE", help="a recipe; without one, the defaults")
    parser.add_argument("--sheet", metavar="PNG", type=Path, help="contact sheet (default: in the cache)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    flags, overrides = parser.parse_known_args()
    # Names that the terminal cannot encode must not raise.
    sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    if flags.sheet and (flags.sheet.suffix != ".png" or not flags.sheet.absolute().parent.is_dir()):
        raise UserError(f"--sheet={flags.sheet} cannot be written; give a .png file in an existing folder.")
    check_overrides(overrides, ["config", "sheet", "json", "help"])
    recipe = load_recipe(flags.config) if flags.config else defaults()
    if not flags.config:  # Without a recipe, the network must not restrict the image size.
        recipe.model.multipliers, recipe.model.attention_resolutions = (1,), ()
    config = config_of(override(recipe, overrides))
    if flags.sheet and config.data.path and lies_in(flags.sheet, Path(config.data.path)):
        raise UserError(f"--sheet={flags.sheet} lies in data.path, and would be trained on; give another folder.")
    started = time.perf_counter()
    try:
        dataset = open_dataset(config, labelled=True, list_unreadable=True)
    except TooManyUnreadable as error:
        lines = [f"{name}: {reason}" for name, reason in error.reasons.items()]
        print(json.dumps({"unreadable": error.reasons}) if flags.json else "\n".join(lines))
        raise
    summary = describe(dataset.images, dataset.labels, dataset.names)
    summary["seconds"] = round(time.perf_counter() - started, 2)
    summary |= write_sheet(dataset.images, flags.sheet)
    summary["left_out"] = {reason: list(names) for reason, names in dataset.left_out.items()}
    if flags.json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        if name == "left_out":
            listed = [f"{len(names):,} {reason}: {abbreviated(names, LISTED)}" for reason, names in value.items()]
            value = f"\n{'':14}".join(listed) or "none"
        elif isinstance(value, dict):
            counts = zip(quoted(map(printable, value)), value.values(), strict=True)
            value = ", ".join(f"{key} {count:,}" for key, count in counts) or "none"
        print(f"{name:14}{value}")


def lies_in(file: Path, folder: Path) -> bool:
    """Whether a file that may not exist yet would be at any depth below a folder, links resolved."""
    return file.resolve().is_relative_to(folder.expanduser().resolve())


def describe(images: Any, labels: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Number and shape of the images, classes or attributes, and each channel's mean and standard deviation in 0..1."""
    import numpy as np

    total, squares = np.zeros(images.shape[3]), np.zeros(images.shape[3])
    chunk = max(CHUNK_BYTES // int(np.prod(images.shape[1:])), 1)
    for start in range(0, len(images), chunk):
        pixels = (
            images[np.arange(start, min(start + chunk, len(images)))].reshape(-1, images.shape[3])
            / np.iinfo(images.dtype).max
        )
        total += pixels.sum(axis=0)
        squares += (pixels**2).sum(axis=0)
    pixels = len(images) * images.shape[1] * images.shape[2]
    mean = total / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    counts = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(names))
    return {
        "images": len(images),
        "shape": list(images.shape[1:]),
        "mebibytes": round(pixels * images.shape[3] * images.dtype.itemsize / 2**20, 1),
        "mean": mean.round(4).tolist(),
        "std": deviation.round(4).tolist(),
        "attributes" if labels.ndim == 2 else "classes": dict(zip(names, counts.tolist(), strict=False)),
    }


def write_sheet(images: Any, sheet: Path | None) -> dict[str, str | None]:
    """Writes the contact sheet; returns its path and the folder of the cached images."""
    import numpy as np

    from ddpm_jax.reporting.images import grid, save_png
    from ddpm_jax.runtime.files import user_cache

    cached = Path(images.filename).parent if isinstance(images, np.memmap) else None
    if sheet is None:  # Not in the current folder, which may be that of the images.
        sheet = (cached or user_cache("data")) / "contact-sheet.png"
        sheet.parent.mkdir(parents=True, exist_ok=True)
    shown = np.random.default_rng(0).permutation(len(images))[:SHOWN]
    save_png(grid(images[np.sort(shown)]), sheet)
    return {"cache": str(cached) if cached else None, "contact_sheet": str(sheet)}


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import end_process, exit_code

    end_process(exit_code(main))
