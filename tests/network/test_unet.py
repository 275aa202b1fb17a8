import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.network.unet import UNet, init_params

SMALL = UNet(out_channels=1, channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(4,), norm_groups=4)
COUNTS = {
    "ddpm_cifar10": (32, UNet(3)),
    "ddim_celeba64": (64, UNet(3, multipliers=(1, 2, 2, 2, 4))),
    "ddpm_celebahq256": (256, UNet(3, multipliers=(1, 1, 2, 2, 4, 4))),
    "improved_cifar10": (32, UNet(6, blocks=3, attention_resolutions=(16, 8), heads=4, scale_shift=True)),
    "adm_imagenet64": (
        64,
        UNet(
            6,
            channels=192,
            multipliers=(1, 2, 3, 4),
            blocks=3,
            attention_resolutions=(32, 16, 8),
            head_channels=64,
            scale_shift=True,
            resampling="residual",
            labels=1000,
        ),
    ),
}


def random_params(unet, draw, image_size=8, channels=1):
    """Parameters without zeros, so that every path contributes; scaling by fan-in keeps activations near 1."""
    shapes = jax.eval_shape(lambda: init_params(unet, jax.random.key(0), (image_size, image_size, channels)))

    def fill(leaf):
        scale = np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.3
        return jnp.asarray(draw.normal(size=leaf.shape) * scale, jnp.float32)

    return jax.tree.map(fill, shapes)


def forward(unet, params, x, n, labels=None, augmentation=None):
    return jax.jit(lambda p: unet.apply({"params": p}, x, n, labels, augmentation=augmentation))(params)


@pytest.fixture
def inputs(draw):
    return jnp.asarray(draw.normal(size=(2, 8, 12, 1)), jnp.float32), jnp.array([3, 700])


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_equal_the_published_ones(name, reference):
    size, unet = COUNTS[name]
    expected = next(n for key, n in reference["parameter_counts"].items() if key.startswith(name))
    shapes = jax.eval_shape(lambda: init_params(unet, jax.random.key(0), (size, size, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))


def test_an_untrained_network_predicts_zero(inputs):
    params = jax.jit(lambda: init_params(SMALL, jax.random.key(0), (8, 8, 1)))()
    np.testing.assert_array_equal(forward(SMALL, params, *inputs), 0.0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("channels", 4),
        ("multipliers", (1, 3)),
        ("blocks", 2),
        ("attention_resolutions", (8,)),
        ("heads", 2),
        ("head_channels", 4),
        ("norm_groups", 2),
        ("norm_eps", 0.1),
        ("scale_shift", True),
        ("resampling", "pool"),
        ("resampling", "residual"),
        ("downsample_padding", 1),
        ("frequency_shift", 0),
    ],
)
def test_every_option_changes_the_parameters_or_the_image(draw, inputs, option, value):
    unet = dataclasses.replace(SMALL, **{option: value})
    params = random_params(unet, draw)
    out = forward(unet, params, *inputs)
    assert out.shape == (2, 8, 12, 1) and out.dtype == jnp.float32
    if shapes_of(params) == shapes_of(random_params(SMALL, draw)):
        assert np.abs(out - forward(SMALL, params, *inputs)).max() > 1e-4


def shapes_of(params):
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}


@pytest.mark.parametrize(
    "options",
    [
        {"resampling": "pool"},
        {"resampling": "residual", "scale_shift": True},
        {"heads": 2, "out_channels": 2},
        {"head_channels": 4, "labels": 3},
        {"multipliers": (1, 2, 3), "blocks": 2, "attention_resolutions": (8, 2)},
    ],
)
def test_every_parameter_has_a_gradient(draw, inputs, options):
    unet = dataclasses.replace(SMALL, **options)
    params, (x, n) = random_params(unet, draw), inputs
    labels = jnp.eye(3)[:2] if unet.labels else None
    weights = jnp.asarray(draw.normal(size=(2, 8, 12, unet.out_channels)), jnp.float32)

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.sum(weights * unet.apply({"params": params}, x, n, labels))

    for path, leaf in jax.tree.leaves_with_path(gradient(params)):
        # Softmax is invariant to a constant added to all logits of a row.
        if not jax.tree_util.keystr(path).endswith("['k']['bias']"):
            assert np.abs(leaf).max() > 1e-6, path


def test_images_of_a_batch_are_independent(draw, inputs):
    params = random_params(SMALL, draw)
    x, n = inputs
    both = forward(SMALL, params, x, n)
    np.testing.assert_allclose(forward(SMALL, params, x[1:], n[1:]), both[1:], atol=1e-5)


def test_sizes_that_the_stages_halve_evenly_are_accepted(draw):
    unet = dataclasses.replace(SMALL, multipliers=(1, 1, 2), attention_resolutions=(7,))
    params = random_params(unet, np.random.default_rng(0), 28)
    assert forward(unet, params, jnp.zeros((1, 28, 28, 1)), jnp.array([0])).shape == (1, 28, 28, 1)


def test_no_label_is_the_null_label_and_other_labels_differ(draw, inputs):
    unet = dataclasses.replace(SMALL, labels=3)
    params = random_params(unet, draw)
    none = forward(unet, params, *inputs)
    np.testing.assert_array_equal(forward(unet, params, *inputs, jnp.zeros((2, 3))), none)
    assert np.abs(forward(unet, params, *inputs, jnp.eye(3)[:2]) - none).max() > 1e-4


def test_images_as_they_are_are_those_of_a_network_without_augmentation_and_others_differ(draw, inputs):
    unet = dataclasses.replace(SMALL, augmentation=3)
    params = random_params(unet, draw)
    without = forward(SMALL, {name: layer for name, layer in params.items() if name != "augmentation"}, *inputs)
    assert params["augmentation"]["kernel"].shape == (3, 4 * SMALL.channels)
    np.testing.assert_array_equal(forward(unet, params, *inputs), without)
    conditioned = forward(unet, params, *inputs, augmentation=jnp.stack([jnp.zeros(3), jnp.eye(3)[1]]))
    np.testing.assert_array_equal(conditioned[0], without[0])
    assert np.abs(conditioned[1] - without[1]).max() > 1e-4


def test_dropout_is_applied_only_while_training(draw, inputs):
    unet = dataclasses.replace(SMALL, dropout=0.5)
    params = random_params(unet, draw)
    x, n = inputs

    def train(key):
        return unet.apply({"params": params}, x, n, dropout_keys=jax.random.split(jax.random.key(key), 2))

    np.testing.assert_array_equal(forward(unet, params, x, n), forward(SMALL, params, x, n))
    assert np.abs(train(0) - train(1)).max() > 1e-3


def test_bfloat16_is_close_and_returns_float32(draw, inputs):
    params = random_params(SMALL, draw)
    exact = forward(SMALL, params, *inputs)
    # JAX's own attention promotes its logits to float32 implicitly.
    with jax.numpy_dtype_promotion("standard"):
        close = forward(dataclasses.replace(SMALL, dtype=jnp.bfloat16), params, *inputs)
    assert close.dtype == jnp.float32
    np.testing.assert_allclose(close, exact, atol=0.05 * np.abs(exact).max())


def test_each_block_has_dropout_of_its_own(monkeypatch, inputs):
    layers = []

    def recorded(x, rate, keys, layer):
        layers.append(layer)
        return x

    monkeypatch.setattr("ddpm_jax.network.layers.dropout", recorded)
    for remat in (False, True):
        layers.clear()
        unet = dataclasses.replace(SMALL, dropout=0.5, resampling="residual", remat=remat)
        jax.eval_shape(unet.init, jax.random.key(0), *inputs, dropout_keys=jax.random.split(jax.random.key(0), 2))
        assert len(layers) == len(set(layers)) == 10


def test_rematerialisation_changes_neither_values_nor_gradients(draw, inputs):
    params = random_params(SMALL, draw)
    keys = jax.random.split(jax.random.key(0), 2)

    def loss(remat, params):
        unet = dataclasses.replace(SMALL, dropout=0.5, remat=remat)
        return (unet.apply({"params": params}, *inputs, dropout_keys=keys) ** 2).sum()

    plain, remat = (jax.jit(jax.value_and_grad(partial(loss, remat)))(params) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), plain, remat)


def test_a_transposed_image_with_transposed_kernels_gives_the_transposed_output(draw):
    """Nothing mixes up height and width."""
    params, n = random_params(SMALL, draw), jnp.array([3, 700])
    x = jnp.asarray(draw.normal(size=(2, 8, 12, 1)), jnp.float32)
    transposed = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1) if leaf.ndim == 4 else leaf, params)
    expected = forward(SMALL, params, x, n).swapaxes(1, 2)
    assert expected.shape == (2, 12, 8, 1)
    np.testing.assert_allclose(forward(SMALL, transposed, x.swapaxes(1, 2), n), expected, atol=2e-5)
