"""Guidance on a mixture of two Gaussians, whose scores and class probabilities are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.denoiser import Prediction
from ddpm_jax.diffusion.guidance import UNGUIDED, Guidance, autoguided, guided_prediction
from ddpm_jax.diffusion.process import eps_from_x0, per_image
from tests.analytic import gaussian_denoiser

PIXELS, STD = (4, 4, 1), 0.2
RAMP = np.linspace(-0.5, 0.5, 16, dtype=np.float32).reshape(1, *PIXELS)
MEANS = (RAMP - 0.1, 0.4 - 0.5 * RAMP)


def log_density(schedule, x_t, t, mean):
    """Log p(x_t | class) of each image up to a constant, for pixels that are independently N(its mean, STD^2)."""
    signal, noise = per_image(schedule.signal_rate, t, x_t), per_image(schedule.noise_rate, t, x_t)
    square = (x_t - signal * mean) ** 2 / (signal**2 * STD**2 + noise**2)
    return -0.5 * jnp.sum(square, axis=(1, 2, 3))


def class_log_odds(schedule, x_t, t):
    """Log p(class | x_t) of the two equally likely classes, [2, batch]."""
    return jax.nn.log_softmax(jnp.stack([log_density(schedule, x_t, t, mean) for mean in MEANS]), axis=0)


def mixture_denoiser(schedule, x_t, t):
    """E[x_0 | x_t] of images that are all of one class or all of the other."""
    share = jnp.exp(class_log_odds(schedule, x_t, t)).reshape(2, -1, 1, 1, 1)
    x0 = sum(share[i] * gaussian_denoiser(schedule, mean, STD)(x_t, t).x0 for i, mean in enumerate(MEANS))
    return Prediction(x0, eps_from_x0(schedule, x_t, t, x0))


@pytest.fixture
def given(linear, draw):
    """x_t, t, and the predictions for x_t with the second class and without."""
    t = jnp.array([1, 200, 400, 600, 1000])
    x_t = jnp.asarray(draw.normal(size=(5, *PIXELS)) * 0.3, jnp.float32)
    return x_t, t, gaussian_denoiser(linear, MEANS[1], STD)(x_t, t), mixture_denoiser(linear, x_t, t)


@pytest.mark.parametrize("scale", [0.5, 2.0, 7.5])
def test_the_guided_score_adds_the_scaled_score_of_the_class(linear, given, scale):
    x_t, t, _, unconditional = given

    def log_class(x):
        return jnp.sum(class_log_odds(linear, x, t)[1])

    # Without t = 1, where the class is certain and float32 divides by a noise of 0.01.
    guided = guided_prediction(Guidance(scale), linear, *given)
    score, free = (-prediction.eps / per_image(linear.noise_rate, t, x_t) for prediction in (guided, unconditional))
    np.testing.assert_allclose(score[1:], (free + scale * jax.grad(log_class)(x_t))[1:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_x0_and_eps_add_up_to_x_t_and_scales_0_and_1_give_the_two_models(linear, given, scale):
    x_t, t, conditional, unconditional = given
    guided = guided_prediction(Guidance(scale), linear, *given)
    rebuilt = per_image(linear.signal_rate, t, x_t) * guided.x0 + per_image(linear.noise_rate, t, x_t) * guided.eps
    np.testing.assert_allclose(rebuilt, x_t, atol=1e-5)
    if scale < 2.0:
        expected = conditional if scale else unconditional
        np.testing.assert_allclose(guided.x0, expected.x0, atol=1e-6)
        np.testing.assert_allclose(guided.eps, expected.eps, atol=1e-5)


def test_without_guidance_the_conditional_model_is_unchanged(linear, given):
    guided = guided_prediction(UNGUIDED, linear, *given)
    np.testing.assert_allclose(guided.x0, given[2].x0, atol=1e-6)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_outside_the_interval_it_is_exactly_the_conditional_model(linear, given, rescale):
    conditional, always = given[2], guided_prediction(Guidance(4.0, None, rescale), linear, *given)
    between = guided_prediction(Guidance(4.0, (200, 400), rescale), linear, *given)
    for ours, with_label, without_interval in zip(between[:2], conditional[:2], always[:2], strict=True):
        np.testing.assert_array_equal(ours[np.array([0, 3, 4])], with_label[np.array([0, 3, 4])])
        np.testing.assert_array_equal(ours[1:3], without_interval[1:3])


def test_rescaling_restores_the_contrast_of_the_conditional_x0(linear, given):
    x_t, t, conditional, _ = given

    def contrast(prediction):
        return prediction.x0.std(axis=(1, 2, 3))

    none, half, full = (guided_prediction(Guidance(7.5, None, share), linear, *given) for share in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(contrast(full), contrast(conditional), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(half.x0, (none.x0 + full.x0) / 2, atol=1e-5)
    rebuilt = per_image(linear.signal_rate, t, x_t) * full.x0 + per_image(linear.noise_rate, t, x_t) * full.eps
    np.testing.assert_allclose(rebuilt, x_t, atol=1e-5)
    assert np.abs(contrast(none) / contrast(conditional) - 1.0).max() > 0.05


def test_rescaled_flat_images_are_finite(linear, given):
    x_t, t, *_ = given
    flat = Prediction(jnp.zeros_like(x_t), jnp.ones_like(x_t))
    assert np.isfinite(guided_prediction(Guidance(2.0, None, 1.0), linear, x_t, t, flat, flat).x0).all()


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_autoguidance_of_two_gaussians_adds_their_scaled_precisions(linear, given, scale):
    """The density that it samples from is p_model^w p_guide^(1 - w), whose score is linear for Gaussians."""
    x_t, t, *_ = given
    model, guide = (gaussian_denoiser(linear, RAMP, std) for std in (STD, 2 * STD))
    guided = autoguided(Guidance(scale), linear, model, guide)(x_t, t)
    signal, noise = per_image(linear.signal_rate, t, x_t), per_image(linear.noise_rate, t, x_t)
    sharp, broad = (1.0 / (signal**2 * std**2 + noise**2) for std in (STD, 2 * STD))
    precision = scale * sharp + (1.0 - scale) * broad
    # Without t = 1, where float32 divides by a noise of 0.01.
    np.testing.assert_allclose(guided.eps[1:], (noise * precision * (x_t - signal * RAMP))[1:], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(signal * guided.x0 + noise * guided.eps, x_t, atol=1e-5)
    np.testing.assert_array_equal(guided.variance_weight, model(x_t, t).variance_weight)


@pytest.mark.parametrize("guidance", [Guidance(0.0), Guidance(3.0), Guidance(7.5, (200, 400))])
def test_a_guide_equal_to_the_model_changes_nothing(linear, given, guidance):
    x_t, t, *_ = given
    model = gaussian_denoiser(linear, RAMP, STD)
    for ours, own in zip(autoguided(guidance, linear, model, model)(x_t, t), model(x_t, t), strict=True):
        np.testing.assert_array_equal(ours, own)
