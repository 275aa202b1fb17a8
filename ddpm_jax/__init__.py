"""Denoising diffusion models in pure JAX: train, sample, resume.

from ddpm_jax import load_run
images = load_run("runs/x").sample(16, sampler="ddim", steps=50)
"""

from typing import TYPE_CHECKING, Any

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.xla_flags import set_sound_flags

if TYPE_CHECKING:
    from ddpm_jax.run import Run, load_run

__all__ = ["Run", "UserError", "load_run"]

set_sound_flags()


def __getattr__(name: str) -> Any:
    """Imports JAX only when needed: processes that decode images start without it."""
    if name not in ("Run", "load_run"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ddpm_jax import run

    return getattr(run, name)
