"""Bits per dimension of held-out images, given their conditions."""

import jax
import numpy as np

from ddpm_jax.builders import param_shapes
from ddpm_jax.commands.bound import bound_of, evaluate_bound
from tests.training.toy import DISCS, config_with

BOUNDS = [{}, {"percentile": 0.9}, {"percentile_max": 2.0}, {"threshold": "clip"}]
BOUNDS += [{"seed": 1}, {"ema": False}, {"variance": "fixed_small"}]


def test_a_bound_is_measured_once_per_combination_of_the_settings_that_change_it(tmp_path, monkeypatch):
    measured = []

    def bound_of(config, params, dataset, rows):
        measured.append((config.sample, dataset is others))
        return np.ones(2), np.ones((2, 3)), np.ones(2)

    monkeypatch.setattr("ddpm_jax.commands.bound.bound_of", bound_of)
    others = DISCS._replace(images=255 - np.asarray(DISCS.images))
    asked = [(config_with(sample={"threshold": "dynamic"} | fields), DISCS) for fields in BOUNDS]
    asked.append((asked[0][0], others))
    for _ in range(2):  # The second time all are found.
        for config, dataset in asked:
            evaluate_bound(config, tmp_path, 7, {"a": np.ones(3)}, dataset, np.arange(2))
    assert measured == [(config.sample, dataset is others) for config, dataset in asked]


def test_a_bound_is_conditional_unless_the_network_ignores_its_condition():
    given, without = (
        config_with(model={"condition": kind}, diffusion={"steps": 3}) for kind in ("low_resolution", "none")
    )
    params = jax.tree.map(
        lambda shape: 0.3 * np.random.default_rng(shape.size).standard_normal(shape.shape, np.float32),
        param_shapes(given),
    )
    kernel = params["conv_in"]["kernel"]  # Its second input channel is the condition.
    ignoring = params | {"conv_in": params["conv_in"] | {"kernel": kernel * np.array([[1.0], [0.0]], np.float32)}}
    smaller = params | {"conv_in": params["conv_in"] | {"kernel": kernel[:, :, :1]}}
    rows, others = np.array([5, 9, 30]), np.array([5, 9, 31])
    unconditional = bound_of(without, smaller, DISCS, rows)
    for found, expected in zip(bound_of(given, ignoring, DISCS, rows), unconditional, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    total, swapped = (bound_of(given, params, DISCS, each)[0] for each in (rows, others))
    np.testing.assert_array_equal(total[:2], swapped[:2])  # Each image is measured given its own condition.
    assert (np.abs(total - unconditional[0]) > 1e-3).all()
