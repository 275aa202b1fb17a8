"""The labels and conditions that an evaluation's samples are generated from."""

import dataclasses
import json

import numpy as np
import pytest

from ddpm_jax.commands import evaluation_inputs
from ddpm_jax.commands.evaluate import evaluate_sampler
from ddpm_jax.commands.evaluation_inputs import Inputs, choose_originals, inputs_to_sample, mean_restoration
from ddpm_jax.commands.evaluation_setup import open_setup
from ddpm_jax.commands.light_evaluation import build_light_evaluation
from ddpm_jax.config import checked
from ddpm_jax.data.dataset import Dataset, hold_out
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.conditional import baseline, restoration_metrics
from ddpm_jax.evaluation.restoration import EXACT_DB, ssim
from ddpm_jax.evaluation.results import Row, table
from ddpm_jax.generation.conditions import conditions_of
from tests.training.toy import DISCS, config_with, learner_and_step

FEW = {"count": 10, "sampler": "ddim", "steps": 2}


def conditional(condition="low_resolution", *, evaluate=None, **sections):
    """A configuration of an image-to-image model."""
    sections = {"model": {"condition": condition}, "sample": FEW, "data": {"holdout": 0.1}} | sections
    return checked(config_with(evaluate={"features": "pixels"} | (evaluate or {}), **sections))


@pytest.mark.parametrize("kind", ["classes", "attributes"])
def test_conditional_models_are_sampled_with_the_labels_of_the_data(kind, tmp_path):
    labels = np.array([0, 2, 2, 2]) if kind == "classes" else np.eye(3, dtype=np.uint8)[[0, 2, 2, 2]]
    dataset = Dataset(np.zeros((4, 8, 8, 1), np.uint8), labels, ("a", "b", "c"))
    config = config_with(model={kind: 3}, sample={"count": 10})
    chosen = inputs_to_sample(config, tmp_path, dataset).labels
    for whole in (chosen[:4], chosen[4:8]):
        np.testing.assert_array_equal(np.sort(whole, axis=0), np.sort(labels, axis=0))
    assert len(chosen) == 10
    np.testing.assert_array_equal(chosen, inputs_to_sample(config, tmp_path, dataset).labels)


@pytest.mark.parametrize("condition", ["low_resolution", "mask"])
def test_conditions_are_those_of_the_held_out_images_in_turn(condition, tmp_path):
    config = conditional(condition, model={"condition": condition, "classes": 2})
    inputs, (_, held) = inputs_to_sample(config, tmp_path, DISCS), hold_out(DISCS, 0.1)
    rows = inputs.originals.rows
    assert len(held) == 6 and set(rows[:6]) == set(held) and list(rows[6:]) == list(rows[:4])
    np.testing.assert_array_equal(inputs.labels, DISCS.labels[rows])
    np.testing.assert_array_equal(inputs.conditions, conditions_of(config, DISCS.images[rows], seed=0))
    repeated = np.array_equal(inputs.conditions[6:], inputs.conditions[:4])
    assert repeated == (condition == "low_resolution")  # An image has another mask each time.


def test_conditions_are_those_of_any_images_if_none_are_held_out(tmp_path, caplog):
    config = conditional(data={"holdout": 0.0}, sample=FEW | {"count": 64})
    originals = inputs_to_sample(config, tmp_path, DISCS).originals
    assert sorted(originals.rows) == list(range(64)) and originals.split == "training"
    assert "conditions are made of images that the model was trained on" in caplog.text


def test_conditions_are_those_of_another_split(tmp_path):
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (count, 8, 8, 1), np.uint8) for count in (9, 5))
    labels = {"train_labels": np.arange(9) % 2, "test_labels": np.arange(5) % 2}
    np.savez(tmp_path / "set.npz", train_images=train, test_images=test, **labels)
    data = {"source": "auto", "path": str(tmp_path / "set.npz"), "cache": str(tmp_path / "cache")}
    model = {"condition": "mask", "classes": 2}
    config = conditional(evaluate={"condition_split": "test"}, data=data, model=model)
    (tmp_path / "labels.json").write_text('["0", "1"]')
    originals = choose_originals(config, tmp_path, None)
    images = originals.dataset.images[originals.rows]
    assert {image.tobytes() for image in images} == {image.tobytes() for image in test}
    (tmp_path / "labels.json").write_text('["a", "b"]')
    for split, words in (
        ("tset", "evaluate.condition_split='tset': data.split='tset' is not in .*did you mean test?"),
        ("test", "evaluate.condition_split='test' has the labels 0, 1; expected those of the run, a, b"),
    ):
        asked = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, condition_split=split))
        with pytest.raises(UserError, match=words):
            choose_originals(asked, tmp_path, None)


def test_conditions_and_metrics_are_those_of_all_samples_whatever_is_in_memory_at_a_time(tmp_path, monkeypatch):
    config = conditional("mask")
    whole = inputs_to_sample(config, tmp_path, DISCS)
    monkeypatch.setattr(evaluation_inputs, "CHUNK", 4)
    inputs = inputs_to_sample(config, tmp_path, DISCS)
    np.testing.assert_array_equal(inputs.conditions, whole.conditions)
    assert inputs.originals.crc32 == whole.originals.crc32
    originals, samples = DISCS.images[inputs.originals.rows], DISCS.images[:10]
    found = mean_restoration(config, samples, inputs)
    values = restoration_metrics(config, samples, inputs.conditions, originals)
    assert found == pytest.approx({name: each.mean() for name, each in values.items()})
    assert mean_restoration(config, originals, inputs)["psnr"] == EXACT_DB
    assert mean_restoration(config_with(), samples, Inputs()) == {}


def test_samples_are_measured_against_their_originals_during_training_as_afterwards(tmp_path):
    light = {"light_count": 10, "light_sampler": "ddim:2"}
    config = conditional(evaluate=light, data={"cache": str(tmp_path)}, model={"condition": "low_resolution"})
    params, inputs = learner_and_step(config)[1].params, inputs_to_sample(config, tmp_path, DISCS)
    (tmp_path / "evaluation").mkdir()
    name = evaluate_sampler(config, tmp_path, 7, params, inputs, open_setup(config, DISCS, 10))
    result = json.loads((tmp_path / "evaluation" / "7.json").read_text())[name]
    during = build_light_evaluation(config, tmp_path, DISCS)(params)
    simple, originals = baseline(config, inputs.conditions), DISCS.images[inputs.originals.rows]
    assert result["baseline_ssim"] == pytest.approx(ssim(simple, originals).mean())
    during["fid"] = during.pop("FID-pixels")
    assert during == {metric: each for metric, each in result.items() if isinstance(each, float)}
    assert {"psnr", "consistency"} < during.keys() and f"  {result['psnr']:.4g}  " in table([Row(7, name, result)])
