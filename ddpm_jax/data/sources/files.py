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
from ddpm_jax.data.sources.tree import SIGNATURES, Tree
from ddpm_jax.errors import printable, shortened

LeftOut = Mapping[str, Sequence[str]]
"""Names of files, or of hidden folders, by the reason why they are no images to train on."""
OUTPUTS = {
    "samples": {"samples.npz", "grid.png"},
    "cached images": {"numbers.npy", "about.json"},
    "an exported model": {"model_index.json", "grid.png"},
    "a run": {"config.json"},
    "results of a run": {"run.json"},
}
"""Files by which the folders that this program writes are known, by kind."""
KEYS = {"a run": {"data", "model", "diffusion", "train"}, "results of a run": {"workdir"}}
"""Keys of the JSON files in OUTPUTS; other programs write files of those names, too."""
RESULTS = ("evaluation/", "samples/", "run.json")
OUTPUTS_IN_ROOT = {
    "samples": ("grid.png", "strip.png", "stages.png", "denoising.gif", "interpolation.gif", "conditions/", "masks/"),
    "a run": (*RESULTS, "checkpoints/", "ema_snapshots/", "wandb/")
    + ("config.json", "data.json", "labels.json", "progress.json", "wandb.json"),
    "results of a run": RESULTS,
}
"""Files and folders that are passed over if data.path itself is such a folder."""
LOGS = re.compile(r"(train|sample|evaluate)\.log|events\.out\.tfevents\..+")
"""Files of a run that exist before its config.json does, so that a run that starts below data.path finds its own."""
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


def holds_images(tree: Tree) -> bool:
    """Whether there are images to train on, apart from those that this program wrote."""
    return bool(_classify(tree, _outputs(tree))[0])


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
        elif (file := name.rpartition("/")[2]) not in TABLES and not LOGS.fullmatch(file):
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
        if kind and (kind not in KEYS or _has_keys(tree, folder, kind)):
            outputs |= dict.fromkeys((f"{folder}/",) if folder else OUTPUTS_IN_ROOT.get(kind, ()), kind)
    return outputs


def _has_keys(tree: Tree, folder: str, kind: str) -> bool:
    (file,) = OUTPUTS[kind]
    try:
        table = json.loads(tree.read(f"{folder}/{file}".lstrip("/")))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(table, dict) and table.keys() >= KEYS[kind]
