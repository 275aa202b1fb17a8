"""Which files of a folder or zip are images to train on, and why the others are not.

Images have the suffix of a format that Pillow may read, or none and that format's first bytes. Folders that this
program wrote (runs, samples, cached images, exported models) are passed over, unless they hold all images.
"""

import json
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from posixpath import splitext

from ddpm_jax.data.annotations import TABLES
from ddpm_jax.data.decode import SUFFIXES
from ddpm_jax.data.sources.tree import Tree
from ddpm_jax.errors import printable, shortened

LeftOut = Mapping[str, Sequence[str]]
"""Names of files, or of hidden folders, by the reason why they are no images to train on."""
SIGNATURES = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|II\*\0|MM\0\*|RIFF....WEBP|....ftypavi[fs]|\0\0\0\x0cjP  ", re.DOTALL
)
"""First bytes of images, for files without a suffix."""
OUTPUTS = {
    "samples": {"samples.npz", "grid.png"},
    "cached images": {"images.u8", "about.json"},
    "an exported model": {"model_index.json", "grid.png"},
    "a run": {"config.json"},
}
"""Files by which the folders that this program writes are known, by kind."""
RUN_SECTIONS = {"data", "model", "diffusion", "train"}
"""Sections of a run's config.json; other programs write files of that name, too."""
OUTPUTS_IN_ROOT = {
    "samples": ("grid.png", "strip.png", "denoising.gif", "interpolation.gif"),
    "a run": ("checkpoints/", "evaluation/", "samples/", "wandb/"),
}
"""Files and folders that are passed over if data.path itself is such a folder."""
SHOWN = 10
"""Reasons in a message."""

logger = logging.getLogger(__name__)


def find_images(tree: Tree) -> tuple[list[str], LeftOut]:
    """The names of the images, sorted, and the names of other files by reason, the most first; logs their numbers.

    Of the folders that this program wrote, only images are listed.
    """
    images, left_out = _classify(tree, _outputs(tree))
    if not images:  # data.path was chosen for what this program wrote.
        images, left_out = _classify(tree, {})
    found = dict(sorted(left_out.items(), key=lambda item: -len(item[1])))
    if images and found:
        logger.info("data.path=%s: left out %s", tree.root, summary(found))
    return images, found


def summary(left_out: LeftOut) -> str:
    """The number of files for each reason, such as "12 .heic, 3 hidden"; "" if none was left out."""
    return shortened((f"{len(names):,} {reason}" for reason, names in left_out.items()), SHOWN)


def _classify(tree: Tree, outputs: Mapping[str, str]) -> tuple[list[str], dict[str, list[str]]]:
    """The images, and the other files by reason, without tables of labels; of outputs, only images are listed."""
    images, left_out = [], defaultdict(list)
    for name in tree.names:
        suffix = splitext(name)[1].lower()
        if output := _output_of(name, outputs):
            if suffix in SUFFIXES:
                left_out[printable(f"in {output.rstrip('/')} ({outputs[output]})")].append(name)
        elif suffix in SUFFIXES or (not suffix and SIGNATURES.match(tree.head(name))):
            images.append(name)
        elif name.rpartition("/")[2] not in TABLES:
            left_out[printable(suffix) or "without suffix"].append(name)
    if hidden := [name for name in tree.hidden if not _output_of(name, outputs)]:
        left_out["hidden"] = hidden
    return images, left_out


def _output_of(name: str, outputs: Mapping[str, str]) -> str | None:
    """The outermost output that a file is or lies in."""
    folders = accumulate(f"{part}/" for part in name.split("/")[:-1]) if outputs else ()
    return next((place for place in (*folders, name) if place in outputs), None)


def _outputs(tree: Tree) -> dict[str, str]:
    """The kind of each file and folder, the latter with a slash at the end, that this program wrote."""
    found: dict[str, set[str]] = defaultdict(set)
    telling = set().union(*OUTPUTS.values())
    for name in tree.names:
        folder, _, file = name.rpartition("/")
        if file in telling:
            found[folder].add(file)
    outputs: dict[str, str] = {}
    for folder, files in found.items():
        kind = next((kind for kind, needed in OUTPUTS.items() if needed <= files), None)
        if kind and (kind != "a run" or _is_run(tree, folder)):
            outputs |= dict.fromkeys((f"{folder}/",) if folder else OUTPUTS_IN_ROOT.get(kind, ()), kind)
    return outputs


def _is_run(tree: Tree, folder: str) -> bool:
    try:
        table = json.loads(tree.read(f"{folder}/config.json".lstrip("/")))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(table, dict) and table.keys() >= RUN_SECTIONS
