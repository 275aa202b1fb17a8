"""Which files of a folder or zip are images to train on, and why the others are not.

Images have the suffix of a format that Pillow may read, or none and that format's first bytes. Folders that this
program wrote (runs, samples, cached images, exported models) are passed over, unless they hold all images.
"""

import json
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from posixpath import splitext

from ddpm_jax.data.annotations import TABLES
from ddpm_jax.data.decode import SUFFIXES
from ddpm_jax.data.sources.tree import Tree
from ddpm_jax.errors import shortened

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
"""What this program writes into a folder of its own, and files by which such a folder is known."""
RUN = {"data", "model", "diffusion", "train"}
"""Sections of a run's config.json; other programs write files of that name, too."""
WITHIN = {
    "samples": ("grid.png", "strip.png", "denoising.gif", "interpolation.gif"),
    "a run": ("checkpoints/", "evaluation/", "samples/", "wandb/"),
}
"""What is passed over if data.path itself is such a folder."""
SHOWN = 10
"""Reasons in a message."""

logger = logging.getLogger(__name__)


def find_images(tree: Tree) -> tuple[list[str], LeftOut]:
    """The names of the images, sorted, and the names of other files by reason, the most first; logs their numbers.

    Of the folders that this program wrote, only images are listed.
    """
    written = {prefix: kind for folder, kind in _outputs(tree).items() for prefix in _prefixes(folder, kind)}
    images, left_out = _sort_out(tree, tuple(written))
    if not images:  # data.path was chosen for what this program wrote.
        images, left_out = _sort_out(tree, ())
    else:
        for prefix, kind in written.items():
            inside = [name for name in tree.names if name.startswith(prefix) and _suffix(name) in SUFFIXES]
            left_out[f"in {prefix.rstrip('/')} ({kind})"] = inside
    found = dict(sorted(((reason, names) for reason, names in left_out.items() if names), key=_most_first))
    if images and found:
        logger.info("data.path=%s: left out %s", tree.root, summary(found))
    return images, found


def summary(left_out: LeftOut) -> str:
    """The number of files for each reason, such as "12 .heic, 3 hidden"; "" if none was left out."""
    return shortened((f"{len(names):,} {reason}" for reason, names in left_out.items()), SHOWN)


def _sort_out(tree: Tree, passed_over: tuple[str, ...]) -> tuple[list[str], dict[str, list[str]]]:
    """The images, and all other files but tables of labels by reason; passed_over: beginnings of names."""
    images, left_out = [], defaultdict(list)
    for name in (name for name in tree.names if not name.startswith(passed_over)):
        suffix = _suffix(name)
        if suffix in SUFFIXES or (not suffix and SIGNATURES.match(tree.head(name))):
            images.append(name)
        elif name.rpartition("/")[2] not in TABLES:
            left_out[suffix or "without suffix"].append(name)
    left_out["hidden"] = [name for name in tree.hidden if not name.startswith(passed_over)]
    return images, left_out


def _suffix(name: str) -> str:
    return splitext(name)[1].lower()


def _most_first(item: tuple[str, list[str]]) -> int:
    return -len(item[1])


def _outputs(tree: Tree) -> dict[str, str]:
    """The outermost folders that this program wrote, and what they are; "" is the root."""
    found: dict[str, set[str]] = defaultdict(set)
    marks = set().union(*OUTPUTS.values())
    for name in tree.names:
        folder, _, file = name.rpartition("/")
        if file in marks:
            found[folder].add(file)
    outputs: dict[str, str] = {}
    for folder in sorted(found):
        kind = next((kind for kind, files in OUTPUTS.items() if files <= found[folder]), None)
        inside = any(folder.startswith(f"{outer}/") for outer in outputs if outer)
        if kind and not inside and (kind != "a run" or _is_run(tree, folder)):
            outputs[folder] = kind
    return outputs


def _is_run(tree: Tree, folder: str) -> bool:
    try:
        table = json.loads(tree.read(f"{folder}/config.json".lstrip("/")))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(table, dict) and table.keys() >= RUN


def _prefixes(folder: str, kind: str) -> tuple[str, ...]:
    return (f"{folder}/",) if folder else WITHIN.get(kind, ())
