import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.network.layers import (
    GroupNorm,
    ResidualBlock,
    SelfAttention,
    downsample,
    dropout,
    time_embedding,
    upsample,
)


def test_time_embedding_equals_the_reference(reference):
    for n, total in reference["time_embedding_dim128_sum_by_network_input_n"].items():
        np.testing.assert_allclose(time_embedding(jnp.array([int(n)]), 128).sum(), total, rtol=1e-4)


def test_time_embedding_of_zero_is_sines_then_cosines():
    np.testing.assert_array_equal(time_embedding(jnp.array([0]), 8), [[0.0] * 4 + [1.0] * 4])


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_group_norm_equals_that_of_flax(draw, groups):
    x = jnp.asarray(draw.normal(3.0, 2.0, (2, 5, 6, 8)), jnp.float32)
    params = {"params": {"scale": jnp.asarray(draw.normal(size=8), jnp.float32), "bias": jnp.arange(8.0)}}
    ours, flax = GroupNorm(groups, 1e-6), nn.GroupNorm(groups, epsilon=1e-6)
    np.testing.assert_allclose(ours.apply(params, x), flax.apply(params, x), atol=2e-5)

    def total(module, x):
        return (module.apply(params, x) ** 3).sum()

    gradients = [jax.grad(total, argnums=1)(module, x) for module in (ours, flax)]
    np.testing.assert_allclose(gradients[0], gradients[1], atol=2e-2, rtol=1e-3)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (100.0, 0.01), (-1000.0, 0.1), (1e4, 1.0)])
def test_group_norm_of_a_large_mean_is_that_of_float64(draw, mean, std):
    """Within 32 roundings of the mean, in units of the standard deviation: 0.04 at 100 and 0.01."""
    x = draw.normal(mean, std, (2, 8, 8, 8)).astype(np.float32)
    groups = x.astype(np.float64).reshape(2, 64, 4, 2)
    centred = groups - groups.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-6)
    params = {"params": {"scale": jnp.ones(8, jnp.float32), "bias": jnp.zeros(8, jnp.float32)}}
    out = jax.jit(GroupNorm(4, 1e-6).apply)(params, x)
    bound = 32 * np.finfo(np.float32).eps * (abs(mean) / std + 1)
    np.testing.assert_allclose(out, expected.reshape(x.shape), atol=bound, rtol=0)


def test_group_norm_has_the_second_derivatives_of_flax(draw):
    x, v = (jnp.asarray(draw.normal(size=(1, 2, 2, 4)), jnp.float32) for _ in range(2))
    params = {"params": {"scale": jnp.ones(4, jnp.float32), "bias": jnp.zeros(4, jnp.float32)}}

    def slope(x, module):
        return jnp.vdot(jax.grad(lambda x: (module.apply(params, x) ** 3).sum())(x), v)

    curvature = jax.jit(jax.grad(slope), static_argnums=1)
    ours, flax = (curvature(x, module) for module in (GroupNorm(2, 1e-6), nn.GroupNorm(2, epsilon=1e-6)))
    np.testing.assert_allclose(ours, flax, atol=2e-3, rtol=2e-3)


def test_group_norm_returns_bfloat16_but_computes_in_float32(draw):
    x = jnp.asarray(draw.normal(100.0, 0.5, (1, 8, 8, 4)), jnp.bfloat16)
    module = GroupNorm(2, 1e-6)
    out = module.apply(module.init(jax.random.key(0), x), x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32).std(), 1.0, atol=0.05)


def test_downsample_undoes_upsample_which_is_nearest_neighbour(draw):
    x = jnp.asarray(draw.normal(size=(2, 3, 4, 5)), jnp.float32)
    np.testing.assert_array_equal(upsample(x), jax.image.resize(x, (2, 6, 8, 5), "nearest"))
    np.testing.assert_allclose(downsample(upsample(x)), x, atol=1e-6)


def test_the_mask_of_dropout_depends_on_the_key_of_the_image_and_the_layer_alone(draw):
    x, keys = jnp.asarray(draw.normal(size=(3, 4, 4, 8)), jnp.float32), jax.random.split(jax.random.key(0), 3)
    together = dropout(x, 0.5, keys, "a")
    for i in (2, 0):
        np.testing.assert_array_equal(dropout(x[i:][:1], 0.5, keys[i:][:1], "a")[0], together[i])
    masks = [dropout(jnp.ones_like(x), 0.5, keys, layer)[i] > 0.0 for layer in ("a", "b") for i in range(3)]
    # Two masks agree in a half of their 128 elements, whose standard deviation is 6.
    assert all(28 < (a == b).sum() < 100 for a, b in itertools.combinations(masks, 2))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rate", [0.25, 0.9])
def test_dropout_preserves_the_expectation(rate, dtype):
    out = dropout(jnp.ones((8, 16, 16, 8), dtype), rate, jax.random.split(jax.random.key(1), 8), "a")
    assert out.dtype == dtype
    np.testing.assert_allclose(np.unique(out.astype(jnp.float32)), [0.0, 1.0 / (1.0 - rate)], rtol=4e-3)
    assert np.mean(out > 0.0) == pytest.approx(1.0 - rate, abs=5 * np.sqrt(rate * (1.0 - rate) / out.size))


@pytest.mark.parametrize("resample", ["none", "down", "up"])
def test_an_untrained_block_is_the_identity(draw, resample):
    """The last layer of every residual branch starts at zero."""
    x = jnp.asarray(draw.normal(size=(2, 4, 4, 8)), jnp.float32)
    block = ResidualBlock(8, 4, 1e-6, 0.0, False, jnp.float32, resample)
    expected = {"none": x, "down": downsample(x), "up": upsample(x)}[resample]
    out, _ = block.init_with_output(jax.random.key(0), x, jnp.ones((2, 16)))
    np.testing.assert_array_equal(out, expected)


def test_attention_is_equivariant_to_permutations_of_pixels(draw):
    x = jnp.asarray(draw.normal(size=(1, 3, 4, 8)), jnp.float32)
    attention = SelfAttention(2, 4, 1e-6, jnp.float32)
    params = attention.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.1 * jnp.asarray(draw.normal(size=p.shape), jnp.float32), params)
    order = draw.permutation(12)

    def shuffled(x):
        return x.reshape(1, 12, 8)[:, order].reshape(1, 3, 4, 8)

    expected = shuffled(attention.apply(params, x))
    np.testing.assert_allclose(attention.apply(params, shuffled(x)), expected, atol=1e-5)
    assert np.abs(expected - shuffled(x)).max() > 0.01


def test_attention_heads_are_independent_softmaxes(draw):
    """Against the formula in NumPy: softmax(q k^T / sqrt(d)) v for each head."""
    x = jnp.asarray(draw.normal(size=(1, 2, 3, 8)), jnp.float32)
    attention = SelfAttention(2, 4, 1e-6, jnp.float32)
    params = attention.init(jax.random.key(1), x)
    params = jax.tree.map(lambda p: p + 0.3 * jnp.asarray(draw.normal(size=p.shape), jnp.float32), params)
    p = jax.tree.map(np.asarray, params["params"])
    h = np.asarray(GroupNorm(4, 1e-6).apply({"params": p["norm"]}, x)).reshape(6, 8)
    q, k, v = ((h @ p[n]["kernel"] + p[n]["bias"]).reshape(6, 2, 4).swapaxes(0, 1) for n in ("q", "k", "v"))
    logits = q @ k.swapaxes(1, 2) / 2.0
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    attended = (weights @ v).swapaxes(0, 1).reshape(6, 8)
    expected = np.asarray(x).reshape(6, 8) + attended @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(attention.apply(params, x).reshape(6, 8), expected, atol=1e-5)
