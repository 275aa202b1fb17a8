"""Autoguidance of runs with random parameters: guidance 0 samples from the guide, whatever its network."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from ddpm_jax import UserError, load_run
from ddpm_jax.generation.guides import GuidedParams, with_guide_step
from ddpm_jax.generation.requests import sample_name
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.optimizer import build_optimizer
from ddpm_jax.training.state import first_state
from ddpm_jax.workdir import read_config, write_config
from tests.commands.sampled import assert_shows_inputs, sample, sampled
from tests.interop.toy import config, random_params, random_run

pytestmark = pytest.mark.xdist_group("guides")  # They share runs.
OPTIONS = {"sampler": "ddim", "steps": 2}
CLASSES = {"classes": 2}
LOW = {"condition": "low_resolution"}


def tiny(noise=0, channels=8, prediction="v", data=None, diffusion=None, **model):
    """Sections of the configuration of a small network, for `config` and `random_run`."""
    shape = {"channels": channels, "norm_groups": 2, "multipliers": [1], "attention_resolutions": []}
    sections = {
        "data": {"image_size": 4, "source": "synthetic"} | (data or {}),
        "model": shape | model,
        "diffusion": {"prediction": prediction} | (diffusion or {}),
    }
    return sections | ({"degradation": {"factor": 2, "noise": noise}} if noise else {})


def add_checkpoint(workdir, step, seed):
    """Adds a checkpoint with random parameters to a run."""
    settings = read_config(workdir)
    params = jax.tree.map(jax.numpy.asarray, random_params(settings, seed))
    state = first_state(params, build_optimizer(settings.optimizer, 1))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(dataclasses.replace(state, step=jax.numpy.int32(step)), {})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    random_run(folder / "base", ["a", "b"], **tiny(**CLASSES))
    add_checkpoint(folder / "base", 5, seed=3)
    random_run(folder / "small", **tiny(channels=4, prediction="x0"))
    random_run(folder / "labelled", ["a", "b"], **tiny(channels=4, **CLASSES))
    return folder


@pytest.fixture(scope="module")
def base(runs):
    return load_run(runs / "base")


def assert_same_images(images, others):
    assert np.abs(images.astype(int) - others).max() <= 1


@pytest.mark.parametrize("name", ["small", "labelled"])
def test_guidance_0_samples_from_the_guide_with_the_labels_of_the_model_or_without_any(runs, base, name):
    guide = load_run(runs / name)
    expected = guide.sample(4, **OPTIONS)
    assert_shows_inputs(expected)
    if guide.names:
        assert np.abs(guide.sample(4, label="b", **OPTIONS).astype(int) - expected).max() > 5
    assert_same_images(base.sample(4, guide=guide, guidance=0, **OPTIONS), expected)


def test_a_guide_may_be_named_or_loaded_and_is_not_used_outside_the_interval(runs, base):
    named = base.sample(4, guide=runs / "small", guidance=2, **OPTIONS)
    guide = load_run(runs / "small")
    np.testing.assert_array_equal(base.sample(4, guide=guide, guidance=2, **OPTIONS), named)
    (*_, last) = base.iter_steps(4, guide=str(runs / "small"), guidance=2, **OPTIONS)
    assert_same_images(last.x0, named)
    own = base.sample(4, **OPTIONS)
    assert np.abs(named.astype(int) - own).max() > 5
    outside = base.sample(4, guide=guide, guidance=2, guidance_interval=(1, 1), **OPTIONS)
    np.testing.assert_array_equal(outside, own)


def test_a_guide_of_an_image_to_image_model_has_its_condition(tmp_path):
    random_run(tmp_path / "sr", **tiny(4, **LOW))
    random_run(tmp_path / "small", **tiny(4, channels=4, **LOW))
    sr, small = load_run(tmp_path / "sr"), load_run(tmp_path / "small")
    options = OPTIONS | {"condition": np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1) * 30, "condition_noise": 2}
    assert_same_images(sr.sample(2, guide=small, guidance=0, **options), small.sample(2, **options))


def test_a_loaded_guide_must_know_conditions_as_noisy_as_those_of_the_model_as_a_named_one_must(tmp_path):
    random_run(tmp_path / "sr", **tiny(4, **LOW))
    random_run(tmp_path / "clean", **tiny(channels=4, **LOW), degradation={"factor": 2})
    sr, options = load_run(tmp_path / "sr"), {"condition": np.zeros((1, 2, 2, 1), np.uint8), "condition_noise": 2}
    for guide in (tmp_path / "clean", load_run(tmp_path / "clean")):
        with pytest.raises(UserError, match="sample.guide=.*clean: sample.condition_noise=2 exceeds degra"):
            sr.sample(2, guide=guide, guidance=2, **OPTIONS, **options)


def test_inpainting_can_be_guided_without_a_label(base):
    images, mask = np.full((1, 4, 4, 1), 99, np.uint8), np.eye(4)
    (*_, last) = base.inpaint(images, mask, guide="checkpoint:0", guidance=3, steps=2, resamples=1)
    np.testing.assert_array_equal(last.x0[0, mask == 0], 99)


def test_the_command_samples_with_an_earlier_checkpoint_as_the_guide(runs):
    assert sample(runs / "base", guide="checkpoint:0", guidance=0.0, count=4, **OPTIONS) == 0
    assert_same_images(sampled(runs / "base"), load_run(runs / "base", step=0).sample(4, **OPTIONS))


def test_folder_names_differ_with_the_checkpoint_and_the_place_of_the_guide():
    settings, names = config(**tiny()), set()
    for place in ("runs/small", "others/small"):
        sample_settings = dataclasses.replace(settings.sample, guide=place, guidance=2.0)
        one = dataclasses.replace(settings, sample=sample_settings)
        for step in (500, 700):
            params = GuidedParams({}, {}, step, settings)
            names.add(sample_name(with_guide_step(one, params), 900, 4))
    assert sorted(name.partition("guide-small+")[2][:3] for name in names) == ["500", "500", "700", "700"]


MISFITS = {
    "oblong": ({"data": {"image_size": [4, 8]}}, "its image shape (height, width, channels) is (4, 8, 1), that of"),
    "deep": ({"data": {"depth": 16}}, "its data.depth is 16, that of the model 8; name a guide with the same."),
    "long": ({"diffusion": {"steps": 9}}, "its diffusion.steps is 9, that of the model 8"),
    "cosine": ({"diffusion": {"schedule": "cosine"}}, "its noise schedule, diffusion.schedule='cosine', is not that"),
    "attributes": ({"attributes": 2}, "its model.classes is 0, that of the model 2"),
    "mask": ({"condition": "mask"}, "its model.condition is mask, that of the model none"),
    "others": (CLASSES, "its labels are c, d, those of the model a, b; name a guide with the same, in the"),
    "untrained": ({}, "untrained holds no checkpoint yet; train first"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_guides_that_do_not_fit_are_refused_in_one_line(runs, name, capsys):
    sections, words = MISFITS[name]
    (runs / name).mkdir()
    write_config(runs / name, config(**tiny(**sections)), ("c", "d"))
    assert sample(runs / "base", guide=runs / name, guidance=2.0, **OPTIONS) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"sample.guide={runs / name}: ") and words in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"guide": "none"}, "none holds no run (no config.json)"),
        ({"guide": "checkpoint:3"}, "keeps no checkpoint of step 3; it keeps 0, 5."),
        ({"guide": "checkpoint:x"}, "'x' is not a number; expected one such as checkpoint:5000."),
        ({"guide": "checkpoint:5"}, "it is the model itself, so that it has no effect; name a smaller run, or an"),
        ({"guide": "checkpoint:5", "guidance": 1.0}, "sample.guide=checkpoint:5 has no effect with sample.guidance=1"),
    ],
)
def test_guides_that_do_not_exist_or_have_no_effect_are_refused_in_one_line(runs, options, words, capsys):
    assert sample(runs / "base", **({"guidance": 2.0} | options)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("sample.guide=") and words in line


def test_mistakes_from_python_are_reported(base):
    with pytest.raises(UserError, match="sample.guide=.*base: it is the model itself"):
        base.sample(2, guide=base, guidance=2)
    with pytest.raises(UserError, match="sample.guide=a Run: its image shape .* is .8, 8, 1., that of the"):
        base.sample(2, guide=load_run("pretrained:digits"), guidance=2)
    with pytest.raises(UserError, match="sample.guide=7 has the wrong type; expected text"):
        next(base.iter_steps(2, guide=7, guidance=2))
    with pytest.raises(UserError, match="sample.guide=checkpoint:5: the model was not loaded from a workdir; name"):
        load_run("pretrained:digits").sample(2, guide="checkpoint:5", guidance=2)


def test_guides_that_differ_only_in_their_parameters_share_what_is_compiled():
    settings = config()
    trees = [GuidedParams({"a": step}, {"a": step}, step, settings) for step in (1, 2)]
    assert jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])


def test_the_last_named_guide_is_read_once_and_follows_the_noise_of_each_call(tmp_path):
    random_run(tmp_path / "sr", **tiny(4, **LOW))
    random_run(tmp_path / "small", **tiny(2, channels=4, **LOW))
    sr, options = load_run(tmp_path / "sr"), OPTIONS | {"guide": tmp_path / "small", "guidance": 2}
    options |= {"condition": np.zeros((1, 2, 2, 1), np.uint8)}
    images = sr.sample(1, condition_noise=2, **options)
    shutil.rmtree(tmp_path / "small")
    np.testing.assert_array_equal(sr.sample(1, condition_noise=2, **options), images)
    with pytest.raises(UserError, match="sample.guide=.*small: sample.condition_noise=3 exceeds degradation.noise=2"):
        sr.sample(1, condition_noise=3, **options)
