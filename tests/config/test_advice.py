"""Advice is given exactly where a configuration cannot mean what it says."""

import re

import pytest

from ddpm_jax.config import config_of, load_recipe
from ddpm_jax.config.advice import after_divergence, before_sampling, before_training
from ddpm_jax.config.recipes import RECIPES

DOUBTFUL = {
    "warm-up": ({"optimizer": {"warmup": 901}}, "optimizer.warmup=901 is longer than train.steps=900"),
    "EMA": (
        {"optimizer": {"ema_decay": 0.9999, "ema_warmup": False}},
        "optimizer.ema_decay=0.9999 averages over about 10,000 steps, more than train.steps=900",
    ),
    "guidance": (
        {"sample": {"guidance": 2.0}, "train": {"steps": 900, "label_dropout": 0.0}},
        "sample.guidance=2.0 .* train.label_dropout=0 .* or train with",
    ),
}
SOUND = {
    "warm-up": {"optimizer": {"warmup": 900}},
    "EMA with warm-up": {"optimizer": {"ema_decay": 0.9999}},
    "short EMA": {"optimizer": {"ema_decay": 0.99, "ema_warmup": False}},
    "guidance": {"sample": {"guidance": 2.0}},
    "guide": {"sample": {"guidance": 2.0, "guide": "runs/small"}, "train": {"steps": 900, "label_dropout": 0.0}},
    "no guidance": {"train": {"steps": 900, "label_dropout": 0.0}},
}


def config(**sections):
    return config_of({"model": {"classes": 3}, "train": {"steps": 900}} | sections)


@pytest.mark.parametrize("name", DOUBTFUL)
def test_a_doubtful_configuration_gets_one_line(name):
    sections, words = DOUBTFUL[name]
    (line,) = before_training(config(**sections), images=900)
    assert re.search(words, line) and "\n" not in line


@pytest.mark.parametrize(("images", "lines"), [(7, 1), (8, 0)])
def test_fewer_images_than_a_batch_get_one_line(images, lines):
    found = before_training(config(data={"batch_size": 8}), images)
    assert len(found) == lines and all("The number of images, 7, is below data.batch_size=8" in line for line in found)


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_configuration_gets_none(name):
    assert before_training(config(**SOUND[name]), images=900) == []


def test_recipes_get_none():
    for path in RECIPES.glob("*.py"):
        for variant in ("", ":smoke"):
            assert before_training(config_of(load_recipe(f"{path}{variant}")), images=900) == []


def test_only_guidance_matters_when_images_are_sampled():
    sections = {"optimizer": {"warmup": 901}} | DOUBTFUL["guidance"][0]
    assert len(before_training(config(**sections), images=900)) == 2
    assert len(before_sampling(config(**sections))) == 1


@pytest.mark.parametrize(("clip", "clipping"), [(0.0, "optimizer.clip=1"), (1.0, "a smaller optimizer.clip")])
def test_advice_after_divergence_names_only_what_can_change(clip, clipping):
    start = "a lower optimizer.learning_rate, a longer optimizer.warmup"
    sections = {"optimizer": {"clip": clip}}
    assert after_divergence(config(**sections)) == f"{start} or {clipping}"
    narrow = config(**sections, model={"dtype": "bfloat16"})
    assert after_divergence(narrow) == f"{start}, {clipping} or model.dtype=float32"
