"""Denoising diffusion models in pure JAX: train, sample, resume.

from ddpm_jax import load_run
images = load_run("runs/x").sample(16, sampler="ddim", steps=50)
"""

from ddpm_jax.errors import UserError
from ddpm_jax.run import Run, load_run

__all__ = ["Run", "UserError", "load_run"]
