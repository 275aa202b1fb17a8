"""Options of a scheduler are equivalent to fields of our configuration, or refused by name."""

import json

import numpy as np
import pytest

from ddpm_jax.builders import build_schedule
from ddpm_jax.config import defaults, flatten
from ddpm_jax.errors import UserError
from ddpm_jax.interop.diffusers_folder import read_folder
from ddpm_jax.interop.diffusers_scheduler import noise_of, scheduler_of
from tests.interop.toy import change, config, imported

SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize("schedule", ["linear", "cosine", "quadratic", "sigmoid"])
@pytest.mark.parametrize("steps", [8, 1000])
def test_options_and_fields_are_inverse(schedule, steps):
    diffusion = {"schedule": schedule, "steps": steps, "prediction": "v", "zero_terminal_snr": True}
    settings = config(diffusion=diffusion, sample={"threshold": "dynamic", "percentile": 0.9, "spacing": "linspace"})
    fields = noise_of(scheduler_of(settings), "here", learned=False)
    for name, value in fields.items():
        expected = flatten(settings)[name]
        assert value == (pytest.approx(expected) if isinstance(expected, float) else expected), name


def test_a_model_tuned_for_consistency_has_the_scheduler_of_its_sampler(package_log):
    settings = config(diffusion={"objective": "consistency"}, sample={"sampler": "consistency", "threshold": "none"})
    fields = noise_of(scheduler_of(settings), "here", learned=False)
    assert {name: flatten(settings)[name] for name in fields} == pytest.approx(fields)
    assert (fields["diffusion.objective"], fields["sample.sampler"]) == ("consistency", "consistency")
    assert not package_log.text
    scheduler_of(config(diffusion={"objective": "consistency"}, sample={"spacing": "karras"}))
    assert "LCMScheduler has no options for sample.sampler=ddpm, sample.spacing=karras, which" in package_log.text


def test_an_lcm_scheduler_of_other_steps_is_imported_with_a_warning(package_log):
    fields = noise_of({"_class_name": "LCMScheduler", "beta_schedule": "linear"}, "here", learned=False)
    assert (fields["sample.spacing"], fields["sample.threshold"]) == (None, "none")
    assert (fields["diffusion.beta_start"], fields["diffusion.beta_end"]) == (0.00085, 0.012)
    assert "ignoring original_inference_steps" in package_log.text


def test_settings_that_a_scheduler_cannot_store_are_named(package_log):
    scheduler_of(config(sample={"sampler": "ddim", "steps": 4, "spacing": "quadratic"}))
    assert "no options for sample.sampler=ddim, sample.steps=4, sample.spacing=quadratic, which" in package_log.text
    assert scheduler_of(config(sample={"sampler": "heun"}))["timestep_spacing"] == "trailing"
    assert "no options for sample.sampler=heun, which" in package_log.text


def test_the_noise_of_another_scheduler_is_imported_with_its_own_defaults(folder):
    heun = {"_class_name": "HeunDiscreteScheduler", "num_train_timesteps": 1000, "use_karras_sigmas": True}
    (folder / SCHEDULER).write_text(json.dumps(heun))
    diffusion = imported(folder)[0].diffusion
    assert (diffusion.schedule, diffusion.beta_start, diffusion.beta_end) == ("linear", 0.00085, 0.012)


SCHEDULER_MISTAKES = {
    "another class": ({"_class_name": "ScoreSdeVeScheduler"}, "describes a ScoreSdeVeScheduler; supported are DDPM"),
    "switch": ({"clip_sample": "no"}, "clip_sample='no' is not supported; expected true or false"),
    "flow": ({"use_flow_sigmas": True}, "use_flow_sigmas=True is not supported; expected False"),
    "list": ({"prediction_type": ["epsilon"]}, "is not supported; expected 'epsilon' or"),
    "huge": ({"beta_end": 10**400}, "beta_end=1000"),
    "huge count": ({"num_train_timesteps": 10**400}, "num_train_timesteps=1000"),
    "schedule": ({"beta_schedule": [], "trained_betas": None}, "beta_schedule=[] is not supported"),
    "noise": (
        {"beta_schedule": "sigmoid", "trained_betas": None},
        "beta_schedule='sigmoid' is not supported; expected one of linear",
    ),
    "betas": ({"trained_betas": [0.1, 0.2]}, "trained_betas lists 2 betas of no known schedule"),
    "no betas": ({"trained_betas": "many"}, "trained_betas lists 0 betas"),
    "variance": ({"variance_type": "learned"}, "variance_type='learned' is not supported"),
    "output": ({"variance_type": "learned_range"}, "but the network predicts no variance (out_channels)"),
    "offset": ({"steps_offset": 1}, "steps_offset=1 is not supported; expected 0"),
    "range": ({"clip_sample_range": 2.0}, "clip_sample_range=2.0 is not supported; expected 1.0"),
    "number": ({"beta_end": "0.02"}, "beta_end=0.02 is not supported; expected a number"),
    "steps": ({"num_train_timesteps": 1}, "num_train_timesteps=1 is not supported"),
}


@pytest.mark.parametrize("name", SCHEDULER_MISTAKES)
def test_unsupported_schedulers_are_refused_by_name(name, folder):
    fields, words = SCHEDULER_MISTAKES[name]
    change(folder / SCHEDULER, **fields)
    with pytest.raises(UserError) as caught:
        read_folder(folder)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_capped_betas_are_listed_and_recognised(folder):
    """With 8 steps, the linear betas would exceed 1."""
    scheduler = json.loads((folder / SCHEDULER).read_text())
    assert max(scheduler["trained_betas"]) < 1
    alpha_bar = np.cumprod(1.0 - np.array(scheduler["trained_betas"]))
    # The imported model overrides the noise schedule of the recipe.
    recipe = defaults()
    recipe.diffusion.beta_end = 0.01
    again, _ = imported(folder, recipe)
    assert again.diffusion.schedule == "linear"
    np.testing.assert_allclose(build_schedule(again).alpha_bar[1:], alpha_bar, rtol=1e-6)


def test_options_of_older_files_are_read(folder, package_log):
    scheduler = json.loads((folder / SCHEDULER).read_text())
    del scheduler["prediction_type"]
    older = scheduler | {"tensor_format": "pt", "timestep_values": None, "skip_prk_steps": True}
    for predicts_eps, prediction in ((True, "eps"), (False, "x0")):
        (folder / SCHEDULER).write_text(json.dumps(older | {"predict_epsilon": predicts_eps}))
        assert imported(folder)[0].diffusion.prediction == prediction
    assert ": ignoring skip_prk_steps" in package_log.text
