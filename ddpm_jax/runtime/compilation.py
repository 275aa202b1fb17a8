"""Compilation that does not depend on JAX's global switches; every function of the package is compiled by `jit`.

Switches such as jax_enable_x64 hold for the whole process: the environment may set them, or another library in the same
notebook. With them the same seed would give other numbers, and a resumed run would go on to other parameters.
Importing this module also chooses a setting of XLA's for versions that compute wrong sums; see `sound_flags`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import jax
from jax.stages import Lowered

FUSIONS = "--xla_cpu_experimental_ynn_fusion_type"


def sound_flags(flags: str, jaxlib_version: str) -> str:
    """XLA_FLAGS with which a version of jaxlib computes right sums on CPUs; a value of the user's stays.

    Before 0.12, the last element of a reduction that is fused with a matrix product can be wrong (jax issue 39103), and
    reductions of rank 7 and 8 crash or hang (39257, 40412). With these flags, products are fused with nothing, and
    reductions are left to XLA's own code.
    """
    affected = tuple(map(int, jaxlib_version.split(".")[:2])) < (0, 12) and FUSIONS not in flags
    return f"{flags} {FUSIONS}=individual_dot".strip() if affected else flags


# XLA reads its flags when it first compiles. jax.jit has such an option, too, but not for functions within others.
if wanted := sound_flags(os.environ.get("XLA_FLAGS", ""), version("jaxlib")):
    os.environ["XLA_FLAGS"] = wanted


@contextmanager
def own_settings() -> Iterator[None]:
    """Gives the switches that change results or raise errors their usual values, in this thread; also a decorator.

    Those that a user may want stay as they are: jax_debug_nans, and jax_default_matmul_precision, which changes how
    accelerators round.
    """
    with (
        jax.enable_x64(False),
        jax.threefry_partitionable(True),
        jax.disable_jit(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


class Jitted:
    """A function compiled by jax.jit, which is always traced, lowered and called under `own_settings`."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self._jitted = jax.jit(function, **options)

    @own_settings()
    def __call__(self, *args: Any) -> Any:
        return self._jitted(*args)

    @own_settings()
    def lower(self, *args: Any) -> Lowered:
        """Lowers the function for these arguments, or their shapes; calls of what is compiled then need the same."""
        return self._jitted.lower(*args)


def jit(function: Callable[..., Any], **options: Any) -> Jitted:
    """jax.jit with the same options, independent of the switches."""
    return Jitted(function, options)
