"""Compilation that does not depend on JAX's global switches; every function of the package is compiled by `jit`.

Switches such as jax_enable_x64 hold for the whole process: the environment may set them, or another library in the same
notebook. With them the same seed would give other numbers, and a resumed run would go on to other parameters.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import jax
from jax.stages import Lowered, Traced

RUN_ONCE = {"xla_backend_optimization_level": 1}
"""Compiler options for drawing the first state: level 0 runs 1 s longer, levels 2 and 3 compile longer."""

DETERMINISTIC = {"xla_gpu_deterministic_ops": True}
"""Compiler options for the same bits in every process on a GPU: XLA then excludes kernels whose result depends on the
order of threads, and does not choose kernels by their measured speed, which differs from start to start (xla.proto).
"""


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

    def __init__(self, function: Callable[..., Any], exact: bool, options: dict[str, Any]) -> None:
        self._jitted, self._exact = jax.jit(function, **options), exact

    @own_settings()
    def __call__(self, *args: Any) -> Any:
        with self._precision():
            return self._jitted(*args)

    @own_settings()
    def trace(self, *args: Any) -> Traced:
        """Traces the function for these arguments, or their shapes."""
        with self._precision():
            return self._jitted.trace(*args)

    def lower(self, *args: Any, platform: str | None = None) -> Lowered:
        """Lowers the function for these arguments, or their shapes; calls of what is compiled then need the same.

        platform: "cpu", "cuda" or "tpu", of which no device is needed here; None for that of the arguments.
        """
        return lower(self.trace(*args), platform)

    def _precision(self) -> AbstractContextManager[Any]:
        return jax.default_matmul_precision("highest") if self._exact else nullcontext()


@own_settings()
def lower(traced: Traced, platform: str | None = None) -> Lowered:
    """Lowers a traced function, for one platform or for that of its arguments."""
    return traced.lower(lowering_platforms=(platform,) if platform else None)


def jit(function: Callable[..., Any], *, exact: bool = False, **options: Any) -> Jitted:
    """jax.jit with the same options, independent of the switches.

    exact: products of float32 are computed in float32, as metrics need in order to be the same everywhere. By default,
    NVIDIA's GPUs round their factors to TF32, and TPUs to bfloat16.
    """
    return Jitted(function, exact, options)
