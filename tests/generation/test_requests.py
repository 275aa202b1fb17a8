import dataclasses

import pytest

from ddpm_jax.config import config_of
from ddpm_jax.config.sections import Sample
from ddpm_jax.errors import UserError
from ddpm_jax.generation.requests import LONGEST_NAME, for_sampler, sample_name, sampler_and_steps, with_sampler

CONFIG = config_of({"sample": {"sampler": "dpm_solver", "order": 3, "steps": 7, "seed": 5, "count": 4}})


def test_another_sampler_resets_only_the_fields_specific_to_a_sampler():
    assert for_sampler(CONFIG.sample, "dpm_solver") == CONFIG.sample
    assert for_sampler(CONFIG.sample, "ddim") == Sample(sampler="ddim", seed=5, count=4)


def test_a_sampler_may_be_given_with_its_number_of_steps():
    assert sampler_and_steps("ddim:20", "f") == ("ddim", 20) and sampler_and_steps("ddim", "f") == ("ddim", None)
    assert with_sampler(CONFIG, "unipc:9", 2, "f").sample == Sample(sampler="unipc", steps=9, seed=5, count=2)
    with pytest.raises(UserError, match="f names 'ddim:x'; expected a sampler, or sampler:steps"):
        with_sampler(CONFIG, "ddim:x", 2, "f")
    with pytest.raises(UserError, match="f names 'ddim:9999': .*exceeds diffusion.steps"):
        with_sampler(CONFIG, "ddim:9999", 2, "f")


def test_folder_names_differ_with_every_setting_and_are_short():
    changes = [{}, {"steps": 8}, {"seed": 6}, {"order": 2}, {"timesteps": (9, 5)}, {"sampler": "ddim", "order": None}]
    changes += [{"timesteps": tuple(range(900, 0, -1))}]
    configs = [dataclasses.replace(CONFIG, sample=dataclasses.replace(CONFIG.sample, **change)) for change in changes]
    names = [sample_name(config, 12, 4) for config in configs]
    names += [sample_name(CONFIG, 13, 4), sample_name(CONFIG, 12, 5), sample_name(CONFIG, 12, 4, b"image")]
    assert len(set(names)) == len(names) and all(len(name) < LONGEST_NAME + 10 for name in names)
    assert names[0].startswith("12-dpm_solver-7steps-quadratic-seed5-n4")
