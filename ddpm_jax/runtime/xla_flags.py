"""XLA's flags with which old versions of jaxlib compute right sums on CPUs; set when ddpm_jax is imported.

XLA reads its flags when it first compiles; options of one compilation would not reach functions compiled within others.
"""

import os
from importlib.metadata import PackageNotFoundError, version

FUSIONS = "--xla_cpu_experimental_ynn_fusion_type"


def sound_flags(flags: str, jaxlib_version: str) -> str:
    """XLA_FLAGS for a version of jaxlib; a value of the user's stays.

    Before 0.12, the last element of a reduction that is fused with a matrix product can be wrong (jax issue 39103), and
    reductions of rank 7 and 8 crash or hang (39257, 40412). With these flags, products are fused with nothing, and
    reductions are left to XLA's own code.
    """
    affected = tuple(map(int, jaxlib_version.split(".")[:2])) < (0, 12) and FUSIONS not in flags
    return f"{flags} {FUSIONS}=individual_dot".strip() if affected else flags


def set_sound_flags() -> None:
    """Sets XLA_FLAGS in the environment of this process for the installed version; TFDS's process has none."""
    try:
        installed = version("jaxlib")
    except PackageNotFoundError:
        return
    if flags := sound_flags(os.environ.get("XLA_FLAGS", ""), installed):
        os.environ["XLA_FLAGS"] = flags
