"""Compiled sums on CPUs are right, also with versions of jaxlib that compute wrong ones by default."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.config.sections import Optimizer
from ddpm_jax.network.layers import GroupNorm
from ddpm_jax.runtime.compilation import jit
from ddpm_jax.runtime.xla_flags import FUSIONS, sound_flags
from ddpm_jax.training.ema import update_ema
from ddpm_jax.training.step import _mean
from tests.end_to_end.commands import ROOT

ROWS = 32_769
"""One more than a multiple of XLA's tiles: the last element was the wrong one."""


@pytest.mark.parametrize("version, affected", [("0.10.2", True), ("0.11.1", True), ("0.12.0.1", False), ("1.0", False)])
def test_affected_versions_fuse_nothing_with_products(version, affected):
    own = f"{FUSIONS}=individual_dot"
    assert sound_flags("", version) == (own if affected else "")
    assert sound_flags("--xla_a=1", version) == (f"--xla_a=1 {own}" if affected else "--xla_a=1")
    assert sound_flags(f"{FUSIONS}=reduce", version) == f"{FUSIONS}=reduce"


@pytest.mark.parametrize("module", ["ddpm_jax", "ddpm_jax.network.unet"])
def test_any_import_sets_the_flags(module):
    program = f"""if True:
        import importlib.metadata, os
        importlib.metadata.version = lambda name: "0.10.2"
        import {module}
        print(os.environ["XLA_FLAGS"])
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{FUSIONS}=individual_dot" in done.stdout


def test_processes_without_jaxlib_import_the_package():
    program = """if True:
        import importlib.metadata
        def missing(name):
            raise importlib.metadata.PackageNotFoundError(name)
        importlib.metadata.version = missing
        import ddpm_jax
    """
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_a_reduction_after_products():
    """The published case, jax issue 39103."""
    x = np.zeros((ROWS, 3), np.float32)
    x[:, 0] = np.arange(ROWS)
    found = jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(x)
    np.testing.assert_allclose(found, x[:, 0].astype(np.float64) ** 2, rtol=1e-6)


def test_a_reduction_of_rank_7():
    """The published case of a crash, jax issue 40412."""
    x, y = np.random.default_rng(0).normal(size=(2, 3, 1, 2, 2, 8, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(jit(lambda a, b: jnp.sum(a * b, axis=3))(x, y), (x * y).sum(axis=3), atol=1e-5)


def test_attention():
    """Its softmax is a reduction after a product; 1089 queries leave a remainder in every tile."""
    query, key, value = x = np.random.default_rng(1).normal(size=(3, 1089, 16))
    weights = np.exp(query @ key.T / 4.0)
    expected = weights @ value / weights.sum(axis=1, keepdims=True)
    found = jit(jax.nn.dot_product_attention)(*x.astype(np.float32)[:, None, :, None])
    np.testing.assert_allclose(found[0, :, 0], expected, atol=1e-5)


def test_group_norm():
    x = np.random.default_rng(2).normal(3.0, 2.0, size=(2, 129, 129, 8))
    grouped = x.reshape(2, -1, 2, 4)
    means, deviations = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.std))
    norm = GroupNorm(2, 0.0)
    params = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}
    found = jit(norm.apply)(params, x.astype(np.float32))
    np.testing.assert_allclose(found, ((grouped - means) / deviations).reshape(x.shape), atol=1e-4)


def test_gradient_norm_loss_and_ema():
    x, old = np.random.default_rng(3).normal(size=(2, ROWS, 3)) + 1.0
    single, old_single = x.astype(np.float32), old.astype(np.float32)
    norm, loss = jit(lambda x: (optax.tree.norm({"a": x, "b": x[0]}), _mean(x)))(single)
    np.testing.assert_allclose(norm, np.sqrt((x**2).sum() + (x[0] ** 2).sum()), rtol=1e-5)
    np.testing.assert_allclose(loss.total / loss.count, x.mean(), rtol=1e-5)
    config = Optimizer(ema_decay=0.9, ema_warmup=False)
    ema = jit(lambda old, new: update_ema(config, old, new, jnp.int32(5)))(old_single, single)
    np.testing.assert_allclose(ema, 0.9 * old + 0.1 * x, atol=1e-5)
