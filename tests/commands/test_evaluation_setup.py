"""The protocol of a result, by whose checksum results are told apart."""

import dataclasses

import numpy as np
import pytest

from ddpm_jax.commands.bound import evaluate_bound
from ddpm_jax.commands.evaluation_inputs import Inputs, Originals
from ddpm_jax.commands.evaluation_setup import EvaluationSetup, protocol_of
from ddpm_jax.evaluation.features import open_extractor
from ddpm_jax.evaluation.results import result_name
from ddpm_jax.evaluation.statistics import measure
from ddpm_jax.generation.guides import GuidedParams
from tests.training.toy import DISCS, config_with

PARAMS = {"a": np.ones(3, np.float32)}
FEW = {"count": 10, "sampler": "ddim", "steps": 5}


@pytest.fixture(scope="module")
def setup():
    extractor = open_extractor("pixels", None)
    return EvaluationSetup(extractor, measure(extractor, DISCS.images, "", limit=10_000), "identity")


def test_results_of_models_without_a_condition_keep_the_names_of_older_versions(setup, tmp_path, monkeypatch):
    """Otherwise everything that was measured before would be measured again."""
    monkeypatch.setattr("ddpm_jax.commands.bound.bound_of", lambda *_: (np.ones(2), np.ones((2, 3)), np.ones(2)))
    config = config_with(sample=FEW)
    assert result_name("x", protocol_of(config, 7, PARAMS, Inputs(), setup)) == "x-29fae459"
    assert evaluate_bound(config, tmp_path, 7, PARAMS, DISCS, np.arange(2)) == "bound-e1e53240"


def test_the_protocol_of_guided_samples_holds_the_guide_and_that_of_the_bound_does_not(setup, tmp_path, monkeypatch):
    monkeypatch.setattr("ddpm_jax.commands.bound.bound_of", lambda *_: (np.ones(2), np.ones((2, 3)), np.ones(2)))
    config = config_with(sample=FEW | {"guide": "runs/small", "guidance": 2.0})
    guides = [GuidedParams(PARAMS, {"b": np.full(3, value)}, 5, config_with(model={"channels": 4})) for value in (1, 2)]
    protocols = [protocol_of(config, 7, params, Inputs(), setup)["drawn"] for params in (PARAMS, *guides)]
    same = dataclasses.replace(config, sample=dataclasses.replace(config.sample, guide="./runs/../runs/small"))
    assert protocol_of(same, 7, guides[0], Inputs(), setup)["drawn"] == protocols[1]
    found = [drawn.pop("guide", None) for drawn in protocols]
    assert protocols[0] == protocols[1] == protocols[2] and found[0] is None
    crcs = [guide.pop("parameters_crc32") for guide in found[1:]]
    assert found[1].pop("from") == found[2].pop("from") and found[1] == {"training_step": 5, "model.channels": 4}
    assert crcs[0] != crcs[1]
    bounds = {evaluate_bound(config, tmp_path, 7, params, DISCS, np.arange(2)) for params in (PARAMS, *guides)}
    assert bounds == {"bound-e1e53240"}


def test_protocols_differ_wherever_conditions_do(setup):
    rows, low = np.arange(10), {"condition": "low_resolution"}
    of_discs = Originals(DISCS, rows, "held out")
    others = [dataclasses.replace(of_discs, rows=rows[::-1]), dataclasses.replace(of_discs, split="test")]
    noised = {"noise": 9}
    asked = [(config_with(model={"condition": kind}, sample=FEW), of_discs) for kind in ("mask", "low_resolution")]
    asked += [(asked[1][0], other) for other in others]
    for change in ({"factor": 2}, {"filter": "box"}, noised):
        asked.append((config_with(model=low, degradation=change, sample=FEW), of_discs))
    asked.append((config_with(model=low, degradation=noised, sample=FEW | {"condition_noise": 3}), of_discs))
    names = {
        result_name("x", protocol_of(config, 7, PARAMS, Inputs(originals=originals), setup))
        for config, originals in asked
    }
    assert len(names) == len(asked)
