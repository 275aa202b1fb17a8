"""Samples given a linear degradation of Gaussian images are those of the posterior, which has a closed form.

Each pixel's colours are N(MEAN, COVARIANCE), and the condition is their luma y = w x. The posterior is Gaussian, too:

    mean = MEAN + K (y - w MEAN),   covariance = COVARIANCE - K w COVARIANCE,   K = COVARIANCE w' / (w COVARIANCE w')

A network that predicts E[x_0 | x_t, y] exactly must give its mean and covariance, through every part of sampling.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.builders import build_schedule
from ddpm_jax.config import config_of
from ddpm_jax.diffusion.degradations import grey
from ddpm_jax.diffusion.pixels import from_pixels, to_pixels
from ddpm_jax.diffusion.process import per_image
from ddpm_jax.generation import draw
from ddpm_jax.network.unet import UNet
from ddpm_jax.runtime.devices import data_mesh

MEAN = np.array([0.2, -0.1, 0.05])
ROOT = np.array([[0.6, 0.0, 0.0], [0.3, 0.45, 0.0], [-0.15, 0.3, 0.3]])
COVARIANCE = ROOT @ ROOT.T
LUMA = np.asarray(grey(jnp.eye(3, dtype=jnp.float32).reshape(3, 1, 1, 3))).ravel().astype(float)
GAIN = COVARIANCE @ LUMA / (LUMA @ COVARIANCE @ LUMA)
POSTERIOR = COVARIANCE - np.outer(GAIN, LUMA @ COVARIANCE)
COUNT, SIDE = 64, 16
CONFIG_TREE = {
    "data": {"image_size": SIDE},
    "model": {"condition": "grey", "multipliers": [1]},
    "diffusion": {"prediction": "x0", "variance": "fixed_small"},
    "sample": {"threshold": "none", "count": COUNT},
}
SCHEDULE = build_schedule(config_of(CONFIG_TREE))


class PosteriorMean(UNet):
    """E[x_0 | x_t, y], where the condition is y; E[x_0 | x_t] for the null condition."""

    def __call__(self, x, n, labels=None, *, condition=None, **others):
        signal, noise = (per_image(table, n + 1, x)[:, 0, 0] for table in (SCHEDULE.signal_rate, SCHEDULE.noise_rate))
        condition = jnp.zeros_like(x[..., :1]) if condition is None else condition
        known = jnp.any(condition != 0.0, axis=(1, 2, 3))
        gains = [best_gain(covariance, signal, noise) for covariance in (POSTERIOR, COVARIANCE)]
        gain = jnp.where(known.reshape(-1, 1, 1), *gains)
        deviation = (condition - float(LUMA @ MEAN)) * jnp.asarray(GAIN, jnp.float32).reshape(1, 1, 1, 3)
        mean = jnp.where(known.reshape(-1, 1, 1, 1), deviation, 0.0) + jnp.asarray(MEAN, jnp.float32).reshape(
            1, 1, 1, 3
        )
        return mean + jnp.einsum("bij,bhwj->bhwi", gain, x - signal.reshape(-1, 1, 1, 1) * mean)


def best_gain(covariance, signal, noise):
    """The linear map from x_t - signal mean to E[x_0] - mean, for images of this covariance; one for each image."""
    variances, axes = (jnp.asarray(part, jnp.float32) for part in np.linalg.eigh(covariance))
    variances = jnp.maximum(variances, 0.0).reshape(1, 3)
    each = signal * variances / (signal**2 * variances + noise**2)
    return jnp.einsum("ik,bk,jk->bij", axes, each, axes)


def sampled(monkeypatch, conditions, **sample):
    """Samples of the exact model for these conditions."""
    config = config_of({**CONFIG_TREE, "sample": {**CONFIG_TREE["sample"], **sample}})
    monkeypatch.setattr(draw, "build_unet", lambda config: PosteriorMean(3))
    compiled, mesh = draw.compile_sampler(config, data_mesh()), data_mesh()
    batches = draw.sample_batches(config, compiled, {}, None, mesh, conditions=conditions)
    return np.concatenate([samples.images for samples in batches]).astype(float)


@pytest.mark.parametrize(
    ("sampler", "steps"), [("ddpm", 1000), ("ddim", 1000), ("dpm_solver", 50), ("unipc", 50), ("heun", 50)]
)
def test_samples_have_the_mean_and_covariance_of_the_posterior(monkeypatch, draw, sampler, steps):
    prior = MEAN + draw.normal(size=(COUNT, SIDE, SIDE, 3)) @ ROOT.T
    conditions = to_pixels(prior @ LUMA)[..., None]
    images = sampled(monkeypatch, conditions, sampler=sampler, steps=steps)
    y = from_pixels(conditions).astype(float)
    residual = (images - MEAN - (y - LUMA @ MEAN) * GAIN).reshape(-1, 3)
    scale, pixels = np.sqrt(np.diag(COVARIANCE)), len(residual)
    np.testing.assert_allclose(residual.mean(axis=0) / scale, 0.0, atol=4 / np.sqrt(pixels))
    np.testing.assert_allclose(
        np.cov(residual.T) / np.outer(scale, scale), POSTERIOR / np.outer(scale, scale), atol=0.04
    )
    # So samples agree with their conditions, which nothing but the network enforces.
    np.testing.assert_allclose(residual @ LUMA, 0.0, atol=0.01)


def test_the_null_condition_gives_the_prior(monkeypatch):
    images = sampled(monkeypatch, None, sampler="unipc", steps=50).reshape(-1, 3)
    np.testing.assert_allclose(images.mean(axis=0), MEAN, atol=4 * 0.6 / np.sqrt(len(images)))
    np.testing.assert_allclose(np.cov(images.T), COVARIANCE, atol=0.04 * COVARIANCE.max())
