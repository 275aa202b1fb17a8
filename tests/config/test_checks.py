"""Values that are out of range, unknown or contradictory are refused in one line."""

import dataclasses

import pytest

from ddpm_jax.config import Config, checked, config_of
from ddpm_jax.errors import UserError

REFUSED = {
    # field: (value, part of the message)
    "model.channels": (100, "model.channels=100 must be a multiple of model.norm_groups=32 (try 96 or 128)."),
    "model.multipliers": ((), "model.multipliers=() must list one or more widths"),
    "model.heads": (3, "model.heads=3 must divide 256"),
    "model.head_channels": (48, "model.head_channels=48 must divide 256"),
    "model.attention_resolutions": ((7,), "7 never occurs; images of 32 pixels pass through 32, 16, 8, 4"),
    "model.resampling": ("convolution", "model.resampling='convolution' does not exist"),
    "model.dropout": (1.0, "model.dropout=1.0 is out of range; expected at least 0 and less than 1"),
    "data.image_size": (30, "data.image_size=30 must be divisible by 8"),
    "data.channels": (5, "data.channels=5 does not exist; expected one of 1, 2, 3, 4"),
    "data.depth": (12, "data.depth=12 does not exist; expected one of 16, 8"),
    "data.value_range": ((1.0, 0.0), "data.value_range=(1.0, 0.0) is out of range; expected () or (lowest, highest)"),
    "data.source": ("digits", "data.source='digits' has 8x8 greyscale images"),
    "data.augment": (1.5, "data.augment=1.5 is out of range; expected 0 to 1."),
    "data.batch_size": (0, "data.batch_size=0 is out of range; expected at least 1"),
    "train.accumulate": (3, "data.batch_size=128 must be a multiple of train.accumulate=3"),
    "diffusion.schedule": ("liner", "diffusion.schedule='liner' does not exist; did you mean linear?"),
    "diffusion.steps": (1, "diffusion.steps=1 is out of range; expected at least 2"),
    "diffusion.beta_start": (0.5, "diffusion.beta_start=0.5 must not exceed diffusion.beta_end=0.02"),
    "diffusion.zero_terminal_snr": (True, "needs diffusion.prediction='v' or 'x0', got 'eps'"),
    "optimizer.ema_widths": ((0.1, 0.05), "expected ascending numbers of more than 0 and at most 0.28, such as (0.05,"),
    "sample.ema_width": (0.3, "sample.ema_width=0.3 is out of range; expected more than 0 and at most 0.28."),
    "evaluate.ema_widths": (
        (1,),
        "evaluate.ema_widths=(1.0,) is out of range; expected ascending numbers of more than",
    ),
    "sample.steps": (2000, "sample.steps=2000 exceeds diffusion.steps=1000"),
    "sample.eta": (1.5, "sample.eta=1.5 is out of range; expected 0 to 1."),
    "sample.timesteps": ((5, 5), "sample.timesteps=(5, 5) must descend, within 1000 to 1."),
    "log.profile": (
        [5, 2],
        "log.profile=(5, 2) is not a range; expected the first and last step to trace, such as (20, 24)",
    ),
    "sample.order": (4, "sample.order=4 is out of range; expected 1 to 3"),
    "sample.sampler": ("dpm", "sample.sampler='dpm' does not exist"),
    "sample.threshold": ("clop", "sample.threshold='clop' does not exist; did you mean clip?"),
    "sample.percentile": (0.9, "sample.percentile=0.9 has no effect; set sample.threshold='dynamic'."),
    "sample.percentile_max": (0.5, "sample.percentile_max=0.5 is out of range; expected at least 1"),
    "sample.keep_eps": (True, "sample.keep_eps=True has no effect with sample.sampler='ddpm'; set the sampler to"),
    "sample.guidance_interval": ((5,), "sample.guidance_interval=(5,) is not an interval; expected (low, high)"),
    "sample.guide": ("runs/small", "sample.guide=runs/small has no effect with sample.guidance=1.0; set the guidance"),
    "sample.guidance_rescale": (0.7, "sample.guidance_rescale=0.7 has no effect with sample.guidance=1.0"),
    "sample.variance": ("learned", "needs a model trained with diffusion.variance='learned'"),
    "sample.label": ("cat", "sample.label=cat needs a conditional model"),
    "sample.guidance": (2.0, "sample.guidance=2.0 needs a conditional model"),
    "optimizer.learning_rate": (float("nan"), "optimizer.learning_rate=nan has the wrong type; expected a number"),
    "train.steps": ("many", "train.steps='many' has the wrong type; expected a whole number"),
    "checkpoint.keep": (0, "checkpoint.keep=0 is out of range"),
}


def changed(**fields) -> dict:
    """The default configuration as a plain tree with some dotted fields set."""
    tree = dataclasses.asdict(Config())
    for name, value in fields.items():
        section, _, inner = name.partition(".")
        tree[section] = {**tree[section], inner: value} if inner else value
    return tree


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_values_are_refused_in_one_line(name):
    value, words = REFUSED[name]
    with pytest.raises(UserError) as caught:
        config_of(changed(**{name: value}))
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train.t_mean": 3.0}, "train.t_mean=3.0 has no effect with train.t_sampling='uniform'; set that to"),
        ({"train.t_unbiased": False}, "train.t_unbiased=False has no effect with train.t_sampling='uniform'"),
        (
            {"train.t_std": 1.0, "train.t_sampling": "loss"},
            "train.t_std=1.0 has no effect with train.t_sampling='loss'",
        ),
        ({"train.t_unbiased": False, "train.t_sampling": "loss"}, "needs train.t_unbiased=True: without weights"),
        (
            {"diffusion.objective": "consistency", "diffusion.weighting": "p2"},
            "diffusion.weighting='p2' has no effect with diffusion.objective='consistency'",
        ),
        ({"optimizer.ema_widths": (0.2,)}, "optimizer.ema_widths=(0.2,) has no effect with optimizer.ema_snapshots=0"),
        ({"optimizer.ema_widths": (), "optimizer.ema_snapshots": 9}, "optimizer.ema_widths=() names no EMA"),
        ({"sample.ema_width": 0.2}, "sample.ema_width=0.2 needs snapshots of the EMAs, but the run was trained with"),
        ({"evaluate.ema_widths": (0.2,)}, "evaluate.ema_widths=(0.2,) needs snapshots of the EMAs"),
        (
            {"sample.ema_width": 0.2, "sample.ema": False, "optimizer.ema_snapshots": 9},
            "sample.ema_width=0.2 has no effect with sample.ema=False; leave out one of them.",
        ),
    ],
)
def test_widths_of_emas_that_cannot_be_used_are_refused_in_one_line(fields, words):
    with pytest.raises(UserError) as caught:
        config_of(changed(**fields))
    assert words in str(caught.value) and "\n" not in str(caught.value)


CONTRADICTIONS = [
    ({"sampler": "ddim", "order": 2}, "order=2 has no effect with sample.sampler='ddim'; set the sampler to 'dpm_sol"),
    ({"sampler": "dpm_solver", "eta": 0.5}, "sample.eta=0.5 has no effect with sample.sampler='dpm_solver'"),
    ({"sampler": "unipc", "variance": "fixed_small"}, "sample.variance=fixed_small has no effect with"),
    ({"sampler": "unipc", "order": 3}, "sample.order=3 is too high for sample.sampler='unipc'; expected 1 or 2"),
    ({"percentile_max": 2}, "sample.percentile_max=2.0 has no effect; set sample.threshold='dynamic'."),
    ({"task": "vary", "guidance": 3.0}, "sample.guidance=3.0 has no effect without a label; set sample.label too."),
    (
        {"sampler": "ddim", "threshold": "none", "keep_eps": True},
        "sample.keep_eps=True has no effect with sample.threshold='none'",
    ),
    ({"timesteps": [1001, 5]}, "must descend, within 1000 to 1"),
    ({"timesteps": [5, 0]}, "must descend, within 1000 to 1"),
    ({"timesteps": [1, 5]}, "must descend, within 1000 to 1"),
    ({"timesteps": [5, 1], "steps": 3}, "sample.steps=3, but sample.timesteps=(5, 1) lists 2"),
    ({"timesteps": [5, 1], "spacing": "trailing"}, "sample.spacing='trailing' has no effect with sample.timesteps"),
    ({"timesteps": [1], "final": "sigma_min"}, "sample.final='sigma_min' ends at step 1"),
    ({"guidance": 2, "guidance_interval": [9, 5]}, "sample.guidance_interval=(9, 5) is not an interval"),
    ({"guidance": 2, "guidance_interval": [9, 1001]}, "sample.guidance_interval=(9, 1001) is not an interval"),
    ({"guidance": 1, "guidance_interval": [5, 9]}, "has no effect with sample.guidance=1.0; set the guidance too"),
]


@pytest.mark.parametrize(("fields", "words"), CONTRADICTIONS)
def test_contradictory_settings_of_sampling_are_refused_in_one_line(fields, words):
    with pytest.raises(UserError) as caught:
        config_of({"model": {"classes": 3}, "sample": fields})
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop": [1, 2, 3]}, r"data.crop=\(1, 2, 3\) is not a crop; expected \(\), \(side,\), \(height, width\) or"),
        ({"crop": [5, 0, 5, 9]}, r"is not a crop"),
        ({"crop": [0]}, r"is not a crop"),
        ({"crop": [0, 0, 20, 10]}, r"is 10x20 \(height x width\) and would be distorted to data.image_size=32"),
        ({"crop": [8], "image_size": [16, 32]}, r"is 8x8 .* would be distorted to data.image_size=\(16, 32\)"),
        ({"attributes": "a, a"}, r"chooses 1, but model.attributes=0"),
        ({"background": [0, 0, 256]}, r"data.background=\(0, 0, 256\) is not a colour"),
        ({"depth": 16}, r"data.depth=16 is for greyscale images, got data.channels=3; set it to 1"),
        ({"value_range": [0.0]}, r"data.value_range=\(0.0,\) is out of range; expected \(\) or \(lowest, highest\)"),
        ({"value_range": [0.0, float("inf")]}, r"data.value_range=\(0.0, inf\) is out of range"),
        ({"value_range": "0,1"}, r"data.value_range='0,1' has the wrong type; expected \(\) or \(lowest, highest\)"),
        ({"fraction": 0.0}, r"data.fraction=0.0 is out of range; expected more than 0 and at most 1"),
        ({"source": "zip"}, r"data.source='zip' does not exist"),
        ({"source": "synthetic", "path": "x"}, r"data.path=x is not read by data.source='synthetic'"),
    ],
)
def test_invalid_settings_of_the_data_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        config_of({"data": options})


def test_listed_steps_may_also_be_counted():
    sample = config_of(
        {"sample": {"timesteps": [5, 1], "steps": 2, "threshold": "dynamic", "percentile_max": 2}}
    ).sample
    assert (sample.timesteps, sample.percentile_max) == ((5, 1), 2.0)


def test_classes_and_attributes_exclude_each_other():
    with pytest.raises(UserError, match="exclude each other"):
        config_of({"model": {"classes": 3, "attributes": 2}})


def test_the_defaults_are_valid():
    assert checked(Config()) == Config()


@pytest.mark.parametrize("size", [0, -8, (8,), (8, 0), (8, 8, 8), (8, 8.0), "8x8", True, 8.0])
def test_what_is_no_image_size_is_refused(size):
    with pytest.raises(UserError, match="data.image_size=.* expected a side such as 64, or "):
        config_of({"data": {"image_size": size}})


def test_both_sides_must_halve_often_enough():
    attends = {"attention_resolutions": [12]}
    assert config_of({"data": {"image_size": [48, 80]}, "model": attends}).image_shape == (48, 80, 3)
    with pytest.raises(UserError, match=r"data.image_size=\(48, 83\) must be divisible by 8, .*try 80 or 88 for 83"):
        config_of({"data": {"image_size": [48, 83]}})
