"""Manifests of checksums, which complete checkpoints: SHA256SUMS on disks, MD5SUMS at URLs.

Both have the format of sha256sum and md5sum, so that a checkpoint that was copied can be verified elsewhere.
"""

from pathlib import Path

from ddpm_jax.runtime.files import file_digest, md5_sums, sha256, staged, sync
from ddpm_jax.runtime.urls import AnyPath, files_in, names_in

SEALS = {"SHA256SUMS": "sha256", "MD5SUMS": "md5"}
"""Names of the manifest, and the checksums in it."""


class DamagedCheckpoint(Exception):
    """A sealed checkpoint whose files differ from those that were sealed; the message names the file."""


def seal_of(checkpoint: AnyPath) -> AnyPath | None:
    """The manifest of a checkpoint; None if it was never completed."""
    return next((checkpoint / name for name in SEALS if (checkpoint / name).exists()), None)


def sealed_steps(folder: AnyPath) -> list[int]:
    """The steps of all sealed folders <folder>/<step>/, oldest first; empty if there is no folder."""
    return sorted(int(name) for name in names_in(folder) if name.isdecimal() and seal_of(folder / name))


def seal(checkpoint: AnyPath) -> None:
    """Adds the checksums atomically, in the format of sha256sum and md5sum."""
    if isinstance(checkpoint, Path):
        name, names = "SHA256SUMS", [name for name in files_in(checkpoint) if name not in SEALS]
        for path in (checkpoint / each for each in names):
            sync(path)  # Older checkpoints may be deleted once this one is sealed.
        sums = {each: sha256(checkpoint / each) for each in names}
    else:
        name, sums = "MD5SUMS", md5_sums(checkpoint)
    with staged(checkpoint / name) as partial:
        partial.write_text("".join(f"{digest}  {each}\n" for each, digest in sorted(sums.items())))


def verify(checkpoint: AnyPath, item: str | None = None) -> None:
    """Raises DamagedCheckpoint unless every sealed file exists and is unchanged.

    item: verify only the files of this item, such as "ema", and those that belong to no item.
    """
    manifest = seal_of(checkpoint) or checkpoint / next(iter(SEALS))
    # A store that cannot be reached is no damage.
    unreadable = (OSError if isinstance(checkpoint, Path) else FileNotFoundError, ValueError)
    try:
        lines = manifest.read_text().splitlines()
        sealed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except unreadable as error:
        raise DamagedCheckpoint(f"{manifest.name} cannot be read: {error}") from error
    if not any(name.startswith(f"{item}/" if item else "") for name in sealed):
        raise DamagedCheckpoint(f"{manifest.name} names no files" + (f" of {item}" if item else ""))
    algorithm = SEALS[manifest.name]
    listed = md5_sums(checkpoint) if algorithm == "md5" and not isinstance(checkpoint, Path) else {}
    for name, digest in sealed.items():
        if item and "/" in name and not name.startswith(f"{item}/"):
            continue
        try:
            found = listed.get(name) or file_digest(checkpoint / name, algorithm)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise DamagedCheckpoint(f"{name} is missing") from error
        if found != digest:
            raise DamagedCheckpoint(f"{name} has changed")
