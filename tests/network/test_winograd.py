"""Winograd's convolution equals a direct one in float64 within rounding, in values and in derivatives."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from ddpm_jax.network import winograd
from ddpm_jax.network.layers import conv3x3
from ddpm_jax.network.winograd import (
    KINDS,
    _bilinear_directly,
    _bilinear_p,
    conv_general_dilated,
    tile_size,
    transforms,
    winograd_conv,
)
from ddpm_jax.runtime.devices import data_mesh

RMS_ERROR = {2: 1e-6, 4: 3e-6}
"""Bound of the rounding error of float32, relative to the RMS of the exact result."""


def direct(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def output_and_gradients(convolve, x, kernel, dy):
    y, gradients = jax.vjp(convolve, x, kernel)
    return y, *gradients(dy)


def arrays(seed, *shapes):
    random = np.random.default_rng(seed)
    return [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("m", [2, 4])
def test_one_tile_of_one_channel_is_the_filter_for_exact_numbers(m):
    """Lavin & Gray 2015, Eq. 8, in float64, where only the float32 constants round."""
    t = transforms(m)
    random = np.random.default_rng(0)
    d, g = random.normal(size=(m + 2, m + 2)), random.normal(size=(3, 3))
    y = t.output @ ((t.kernel @ g.ravel()) * (t.input @ d.ravel()))
    expected = [[np.sum(d[i : i + 3, j : j + 3] * g) for j in range(m)] for i in range(m)]
    np.testing.assert_allclose(y.reshape(m, m), expected, atol=1e-5)


@settings(max_examples=8, deadline=None)
@given(
    m=st.sampled_from([2, 4]),
    size=st.tuples(st.integers(1, 3), st.integers(1, 11), st.integers(1, 11)),
    channels=st.tuples(st.sampled_from([1, 5, 32, 300]), st.sampled_from([1, 7, 32])),
    seed=st.integers(0, 99),
)
def test_outputs_and_gradients_equal_those_of_a_direct_convolution_in_float64(m, size, channels, seed):
    inputs, outputs = channels
    x, kernel, dy = arrays(seed, (*size, inputs), (3, 3, inputs, outputs), (*size, outputs))
    own = output_and_gradients(lambda x, kernel: winograd_conv(m, x, kernel), x, kernel, dy)
    with jax.enable_x64(True):
        exact = output_and_gradients(direct, *(jnp.asarray(np.asarray(a), jnp.float64) for a in (x, kernel, dy)))
    for a, b in zip(own, exact, strict=True):
        b = np.asarray(b)
        assert a.dtype == jnp.float32 and a.shape == b.shape
        # A single product may cancel, so the error is also compared with the largest possible result.
        scale = max(np.sqrt(np.mean(b**2)), 1.0)
        assert np.sqrt(np.mean((np.asarray(a) - b) ** 2)) < RMS_ERROR[m] * scale


@pytest.mark.parametrize("m", [2, 4])
def test_images_in_pieces_equal_images_at_once(m, monkeypatch):
    x, kernel, dy = arrays(0, (6, 8, 8, 3), (3, 3, 3, 5), (6, 8, 8, 5))

    def run():
        forward = winograd_conv(m, x, kernel)
        return forward, *output_and_gradients(lambda x, kernel: winograd_conv(m, x, kernel), x, kernel, dy)

    at_once = run()
    jax.clear_caches()
    monkeypatch.setattr(winograd, "MIN_TILES", 1)
    for limit in ("CACHED_BYTES", "MAX_BYTES"):
        monkeypatch.setattr(winograd, limit, 4 * 2 * 5 * (m + 2) ** 2 * (8 // m) ** 2)  # Two images.
    assert "while" in jax.jit(run).lower().as_text()
    for own, expected in zip(run(), at_once, strict=True):
        np.testing.assert_allclose(own, expected, atol=1e-4)
    jax.clear_caches()


@pytest.mark.parametrize("batch, side, pieces", [(6, 24, 3), (7, 24, 7), (7, 8, 1)])
def test_pieces_divide_the_batch_and_have_enough_tiles(batch, side, pieces):
    (x,) = arrays(0, (batch, side, side, 3))
    (found,) = winograd._pieces(4, 4 * 2 * 3 * 36 * (side // 4) ** 2, x)  # Two images at most.
    np.testing.assert_array_equal(found.reshape(x.shape), x)
    assert len(found) == pieces


def test_over_several_devices_only_a_share_of_the_batch_is_in_pieces(monkeypatch):
    monkeypatch.setattr(winograd, "CACHED_BYTES", 1)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    convolve, (x, kernel) = partial(winograd_conv, 4), arrays(0, (3, 24, 24, 3), (3, 3, 3, 5))
    placed = (PartitionSpec("data"), PartitionSpec())
    of_share = jax.shard_map(convolve, mesh=data_mesh(), in_specs=placed, out_specs=placed[0], check_vma=False)
    for function, in_pieces in ((convolve, False), (of_share, True)):
        assert ("while" in jax.jit(function).lower(x, kernel).as_text()) is in_pieces


def test_only_a_forward_pass_is_in_pieces_that_fit_the_cache(monkeypatch):
    """A training step keeps the transformed tiles for the kernel gradient, also where it recomputes activations."""
    monkeypatch.setattr(winograd, "CACHED_BYTES", 1)
    x, kernel = arrays(0, (2, 24, 24, 3), (3, 3, 3, 5))

    def energy(x, kernel):
        return jnp.sum(winograd_conv(4, x, kernel) ** 2)

    for function, in_pieces in ((energy, True), (jax.grad(energy), False), (jax.grad(jax.checkpoint(energy)), False)):
        assert ("while" in jax.jit(function).lower(x, kernel).as_text()) is in_pieces


def test_an_image_alone_is_an_image_in_a_batch():
    x, kernel = arrays(1, (4, 8, 8, 16), (3, 3, 16, 8))
    together = winograd_conv(4, x, kernel)
    for i in range(4):
        np.testing.assert_allclose(winograd_conv(4, x[i : i + 1], kernel)[0], together[i], atol=1e-4)


def test_it_is_linear_in_both_arguments():
    x, dx, kernel, dkernel = arrays(2, (2, 4, 8, 3), (2, 4, 8, 3), (3, 3, 3, 2), (3, 3, 3, 2))
    for a, b in ((1.0, 2.0), (-0.5, 0.25)):
        left = a * winograd_conv(4, x, kernel) + b * winograd_conv(4, dx, kernel)
        np.testing.assert_allclose(winograd_conv(4, a * x + b * dx, kernel), left, atol=1e-4)
        left = a * winograd_conv(4, x, kernel) + b * winograd_conv(4, x, dkernel)
        np.testing.assert_allclose(winograd_conv(4, x, a * kernel + b * dkernel), left, atol=1e-4)


def test_every_derivative_is_that_of_a_direct_convolution():
    """Forward mode, reverse over reverse, forward over reverse, vmap, and recomputation."""
    x, dx, kernel, dkernel = arrays(3, (2, 5, 4, 3), (2, 5, 4, 3), (3, 3, 3, 2), (3, 3, 3, 2))

    def energy(convolve):
        return lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel)))

    def derivatives(convolve):
        loss = energy(convolve)
        penalty = jax.grad(lambda k: jnp.sum(jax.grad(loss)(x, k) ** 2))
        return (
            jax.jvp(convolve, (x, kernel), (dx, dkernel))[1],
            jax.jvp(lambda x: convolve(x, kernel), (x,), (dx,))[1],
            penalty(kernel),
            jax.jvp(jax.grad(loss, argnums=(0, 1)), (x, kernel), (dx, dkernel))[1],
            jax.vmap(jax.grad(lambda image, k: loss(image[None], k)), (0, None))(x, kernel),
            jax.vmap(jax.grad(loss, argnums=1), (None, 0))(x, jnp.stack([kernel, dkernel])),
            jax.grad(jax.checkpoint(loss), argnums=1)(x, kernel),
        )

    own, expected = derivatives(lambda x, kernel: winograd_conv(4, x, kernel)), derivatives(direct)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), own, expected)


class Layers(nn.Module):
    """Layers of Flax, of which only the first two are plain 3x3 convolutions."""

    conv_general_dilated: object
    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x):
        def conv(**options):
            return nn.Conv(64, (3, 3), dtype=self.dtype, conv_general_dilated=self.conv_general_dilated, **options)

        x = conv()(x)
        x = conv(padding=((0, 0), (0, 0)))(x)
        return conv(strides=2)(x), conv(padding=((1, 1), (0, 0)))(x), conv(feature_group_count=2)(x)


def test_layers_use_it_for_plain_convolutions_in_float32():
    (x,) = arrays(4, (8, 12, 12, 64))
    params = Layers(None).init(jax.random.key(0), x)
    expected, own = (Layers(used).apply(params, x) for used in (None, conv_general_dilated))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), own, expected)

    def convolutions(dtype=jnp.float32):
        text = str(jax.make_jaxpr(lambda x: Layers(conv_general_dilated, dtype).apply(params, x))(x))
        return text.count("winograd["), text.count("conv_general_dilated[")

    assert convolutions() == (2, 3) and convolutions(jnp.bfloat16) == (0, 5)


def test_a_network_convolves_directly_where_exactness_is_asked_for():
    """As an option of the network, or of JAX; evaluation/inception.py always uses Winograd on a CPU."""

    def convolutions(**options):
        conv = conv3x3(64, jnp.float32, "conv", **options)
        x = jax.ShapeDtypeStruct((8, 12, 12, 64), jnp.float32)
        return str(jax.make_jaxpr(lambda x: conv.init_with_output(jax.random.key(0), x)[0])(x)).count("winograd[")

    assert convolutions() == 1 and convolutions(convolution="direct") == 0
    with jax.default_matmul_precision("highest"):
        assert convolutions() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_other_platforms_compute_the_same_by_direct_convolutions(kind):
    x, kernel, dy = arrays(5, (2, 6, 5, 3), (3, 3, 3, 4), (2, 6, 5, 4))
    operands = {"outputs": (x, kernel), "input_gradient": (dy, kernel), "kernel_gradient": (x, dy)}[kind]

    def compute(*operands):
        return _bilinear_p.bind(*operands, m=4, kind=kind, max_bytes=2**20, precision="highest")

    traced = jax.jit(compute).trace(*operands)
    texts = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda", "tpu")}
    assert "convolution" not in texts["cpu"]
    for platform in ("cuda", "tpu"):
        assert texts[platform].count("stablehlo.convolution") == 1 and "dot_general" not in texts[platform]
        assert "HIGHEST" in texts[platform]
    elsewhere = _bilinear_directly(*operands, kind=kind, precision=None)
    np.testing.assert_allclose(elsewhere, jax.jit(compute)(*operands), atol=1e-4)


def test_few_channels_and_few_tiles_are_convolved_directly():
    assert tile_size((8, 32, 32, 128), 128) == tile_size((1, 23, 21, 64), 64) == 4
    assert tile_size((8, 4, 4, 256), 256) == 2
    assert tile_size((8, 32, 32, 3), 128) is tile_size((8, 32, 32, 128), 32) is tile_size((8, 2, 2, 256), 256) is None
