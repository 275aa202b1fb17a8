"""Each field is declared once, with its documentation, range and uses, and all lists are derived from that."""

import dataclasses

import pytest

from ddpm_jax.builders import build_pairs
from ddpm_jax.config import Config, checked, fields_fixed_by, flatten, parse_section
from ddpm_jax.config.convert import config_meanings
from ddpm_jax.config.fields import Meaning, UnitInterval, meanings, option
from ddpm_jax.config.sections import Sample
from ddpm_jax.errors import UserError
from ddpm_jax.generation.requests import for_sampler, image_fields, options_of, sample_name
from scripts.write_reference import table


@dataclasses.dataclass(frozen=True)
class WithChurn(Sample):
    churn: UnitInterval = option(0.0, "Noise that DDIM adds before each step.", samplers=("ddim",))


def with_churn(**fields) -> Config:
    return dataclasses.replace(Config(), sample=WithChurn(**fields))


def test_every_field_has_documentation_and_a_cause_that_fixes_it():
    assert list(config_meanings()) == list(flatten(Config()))
    for name, meaning in config_meanings().items():
        assert isinstance(meaning, Meaning), name
        assert len(meaning.text) > 10 and meaning.text.endswith("."), name
        assert meaning.fixed_by in ("parameters", "optimizer", "training", "nothing"), name


def test_a_field_without_a_meaning_is_an_error():
    plain = dataclasses.make_dataclass("Plain", [("churn", float, 0.0)], bases=(Sample,), frozen=True)
    with pytest.raises(KeyError, match="meaning"):
        meanings(plain)


def test_one_declaration_makes_a_complete_sampler_option():
    settings = WithChurn(sampler="ddim", churn=0.5)
    assert "churn" in options_of(settings) and "churn" in options_of(settings, "inpaint", batched=False)
    assert "churn" in image_fields(settings)
    assert sample_name(with_churn(sampler="ddim", churn=0.5), 7, 9).endswith("-churn-0.5")
    assert for_sampler(settings, "ddpm") == WithChurn(sampler="ddpm")
    assert parse_section("sample", WithChurn(sampler="ddim"), ["--sample.churn=0.5"]) == settings
    assert "| `sample.churn` | `0.0` | 0 to 1 | Noise that DDIM adds before each step. |" in table(WithChurn, "sample.")
    assert checked(with_churn(sampler="ddim", churn=0.5)).sample == settings
    with pytest.raises(UserError, match=r"sample.churn=0.5 has no effect .* set the sampler to 'ddim'"):
        checked(with_churn(churn=0.5))
    with pytest.raises(UserError, match=r"sample.churn=1.5 is out of range; expected 0 to 1"):
        checked(with_churn(sampler="ddim", churn=1.5))


OTHER = {
    # For each field that changes pixels: a value that differs from the default, and the other fields that it requires.
    "sampler": ("ddim", {}),
    "steps": (7, {}),
    "timesteps": ((900, 5), {}),
    "order": (1, {"sampler": "unipc"}),
    "eta": (0.5, {"sampler": "ddim"}),
    "spacing": ("linspace", {"steps": 7}),
    "final": ("sigma_min", {}),
    "variance": ("fixed_small", {}),
    "threshold": ("none", {}),
    "percentile": (0.9, {"threshold": "dynamic"}),
    "percentile_max": (2.0, {"threshold": "dynamic"}),
    "keep_eps": (True, {"sampler": "ddim"}),
    "seed": (1, {}),
    "label": ("1", {}),
    "guidance": (2.0, {}),
    "guide": ("runs/small", {"guidance": 2.0}),
    "guidance_interval": ((3, 7), {"guidance": 2.0}),
    "guidance_rescale": (0.5, {"guidance": 2.0}),
    "condition_noise": (3, {"task": "condition"}),
    "cascade": ("runs/b", {}),
    "originals": ("a.png", {"task": "condition"}),
    "ema": (False, {}),
    "ema_width": (0.07, {}),
    "strip": (3, {}),
    "gif": (3, {}),
    "frames": ("x0", {}),
    "compare": ("ddim", {"task": "compare"}),
    "images": ("a.png", {"task": "vary"}),
    "mask": ("a.png", {"task": "inpaint"}),
    "resamples": (3, {"task": "inpaint"}),
    "jump": (3, {"task": "inpaint"}),
    "strength": (0.2, {"task": "vary"}),
    "other_seed": (5, {"task": "interpolate", "sampler": "ddim"}),
}


@pytest.mark.parametrize("name", [name for name, meaning in meanings(Sample).items() if meaning.pixels])
def test_fields_that_change_pixels_change_the_name_of_the_samples_folder(name):
    value, required = OTHER[name]
    condition = "low_resolution" if required.get("task") == "condition" else "none"
    model = dataclasses.replace(Config().model, classes=3, condition=condition)
    degradation = dataclasses.replace(Config().degradation, noise=0 if condition == "none" else 10)
    optimizer = dataclasses.replace(Config().optimizer, ema_snapshots=100)
    plain = dataclasses.replace(
        Config(), optimizer=optimizer, model=model, degradation=degradation, sample=Sample(**required)
    )
    changed = checked(dataclasses.replace(plain, sample=dataclasses.replace(plain.sample, **{name: value})))
    assert build_pairs(changed) is not None
    assert sample_name(changed, 7, 9) != sample_name(plain, 7, 9)


def test_only_these_fields_of_sample_leave_pixels_unchanged():
    others = {name for name, meaning in meanings(Sample).items() if not meaning.pixels}
    assert others == {"count", "batch_size", "checkpoint", "out", "task"}


def test_a_resumed_run_may_change_only_fields_that_leave_its_result_unchanged():
    free = fields_fixed_by("nothing")
    assert {"train.steps", "train.sharding", "model.remat", "data.path", "data.cache", "log.every"} <= set(free)
    assert {name for name in free if name.startswith("data.")} == {"data.path", "data.cache"}
    assert not {"seed", "data.batch_size", "model.dropout", "optimizer.learning_rate"} & set(free)
    of_parameters = fields_fixed_by("parameters")
    assert "model.heads" in of_parameters and "diffusion.prediction" in of_parameters
    assert not {"model.dropout", "model.dtype", "model.remat", "diffusion.loss", "seed"} & set(of_parameters)
