"""Compilation that does not depend on JAX's global switches; every function of the package is compiled by `jit`.

Switches such as jax_enable_x64 hold for the whole process: the environment may set them, or another library in the same
notebook. With them the same seed would give other numbers, and a resumed run would go on to other parameters.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.stages import Lowered

RUN_ONCE = {"xla_backend_optimization_level": 1}
"""Compiler options for drawing the first state: level 0 runs 1 s longer, levels 2 and 3 compile longer."""


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
