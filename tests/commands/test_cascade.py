"""Cascades of runs with random parameters: the samples of one are the conditions of the next."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import UserError, load_run
from ddpm_jax.commands import cascade
from ddpm_jax.commands.cascade import cascade_name, open_stages, stage_config
from ddpm_jax.generation.pixel_file import PixelFile
from ddpm_jax.workdir import read_config, write_config
from tests.commands.sampled import assert_shows_inputs, newest, sample, sampled
from tests.interop.toy import config, random_run

pytestmark = pytest.mark.xdist_group("cascade")  # They share runs.
OPTIONS = {"count": 6, "batch_size": 4, "sampler": "ddim", "steps": 2}
CLASSES = {"classes": 2}
TINY = {
    "data": {"image_size": 4, "source": "synthetic"},
    "model": {"multipliers": [1], "attention_resolutions": [], **CLASSES},
}
LARGE = {"image_size": 16, "source": "synthetic"}
LOW = {"condition": "low_resolution"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs to sample from, and configurations of further ones."""
    folder = tmp_path_factory.mktemp("runs")
    random_run(folder / "base", ["a", "b"], **TINY)
    random_run(folder / "sr", ["a", "b"], model=CLASSES | LOW, degradation={"factor": 2, "noise": 4})
    others = {
        "sr2": {"data": LARGE, "model": LOW | {"attention_resolutions": []}, "degradation": {"factor": 2}},
        "painter": {"model": {"condition": "mask"}},
        "plain": {},
    }
    for name, sections in others.items():
        (folder / name).mkdir()
        write_config(folder / name, config(**sections), ())
    return folder


def call(runs, *names, **options) -> int:
    paths = ",".join(str(runs / name) if name else "" for name in names)
    return sample(runs / "base", cascade=paths, **{**OPTIONS, **options})


def test_the_images_of_each_run_are_the_conditions_of_the_next_also_after_an_interruption(runs, monkeypatch, capsys):
    append, made = PixelFile.append, []

    def interrupted(self, images):
        append(self, images)
        made.append((images.shape[1], self.count))
        if made[-1] == (8, 4):
            raise KeyboardInterrupt

    monkeypatch.setattr(PixelFile, "append", interrupted)
    for code in (130, 0):  # The second call resumes in the second stage.
        assert call(runs, "sr", seed=3, condition_noise=2) == code
    assert made == [(4, 4), (4, 6), (8, 4), (8, 6)]
    printed = capsys.readouterr().err
    assert "Resuming after 6 images" in printed and "Resuming after 4 images" in printed
    found = newest(runs / "base")
    assert {path.name for path in found.iterdir()} == {"grid.png", "stages.png", "images", "samples.npz"}
    assert not list(found.parent.glob(".*"))

    options = {name: value for name, value in OPTIONS.items() if name != "count"}
    small = load_run(runs / "base").sample(6, seed=3, **options)
    assert_shows_inputs(small)
    larger = partial(load_run(runs / "sr").sample, 6, seed=4, condition=small, condition_noise=2, **options)
    large = np.stack([larger(label=name) for name in "ab"])[np.arange(6) % 2, np.arange(6)]  # Each class in turn.
    np.testing.assert_array_equal(sampled(runs / "base"), large)
    rows = np.asarray(Image.open(found / "stages.png"))[2::66, 2:66:8]
    np.testing.assert_array_equal(rows[:2], [small[0, 0, :, 0].repeat(2), large[0, 0, :, 0]])


def test_images_show_their_seed_condition_its_noise_and_their_label(runs, draw):
    """So the comparison above would fail with any of them wrong."""
    small = draw.integers(0, 256, (6, 4, 4, 1), np.uint8)
    right = {"seed": 4, "condition": small, "condition_noise": 2, "label": "b", **OPTIONS}
    images = load_run(runs / "sr").sample(**right)
    assert_shows_inputs(images)
    for wrong in ({"seed": 3}, {"condition": small[::-1]}, {"condition_noise": 0}, {"label": "a"}):
        assert (load_run(runs / "sr").sample(**right | wrong) != images).mean() > 0.8, wrong


def test_noise_of_a_stage_is_independent_of_that_of_its_condition(runs):
    seeds = [
        stage_config(config(sample={"seed": 2**31 - 1}), read_config(runs / "sr"), runs, i).sample.seed for i in (1, 2)
    ]
    assert seeds == [0, 1]
    # Were the seeds equal, the noise of the larger image would begin with that of the smaller one.
    small, large = (load_run(runs / name).noise(2, seed=5).reshape(2, -1) for name in ("base", "sr"))
    np.testing.assert_array_equal(small, large[:, :16])


def test_guidance_and_the_guide_are_for_the_first_run(runs):
    guided = config(sample={"guide": "runs/small", "guidance": 2.0})
    stage = stage_config(guided, read_config(runs / "sr"), runs, 1)
    assert (stage.sample.guide, stage.sample.guidance) == (None, 1.0)


def test_labels_go_to_stages_with_the_same_names_and_guidance_to_the_base(runs, monkeypatch):
    options = {"cascade": str(runs / "sr"), "label": "b", "guidance": 2.0, "count": 3}
    for names, labels in ((("a", "b"), [1, 1, 1]), (("a", "c"), None)):
        monkeypatch.setattr(
            cascade, "label_names", lambda _, path, names=names: names if path.name == "sr" else ("a", "b")
        )
        base, stage = open_stages(config(**TINY, sample=options), runs / "base")
        assert base.labels is not None and base.labels.tolist() == [1, 1, 1]
        assert (None if stage.labels is None else stage.labels.tolist()) == labels
        assert (base.config.sample.guidance, stage.config.sample.guidance) == (2.0, 1.0)


def test_cascades_of_other_runs_or_steps_have_other_folders(runs):
    base = config(**TINY, sample={"cascade": str(runs / "sr")})
    stages = open_stages(base, runs / "base")
    first, second = stages
    name = cascade_name(base, stages)
    assert "cascade-sr+0" in name
    others = (
        [first, second._replace(step=1)],
        [first._replace(step=1), second],
        [first, second._replace(workdir=runs / "x" / "sr")],
    )
    assert len({name, *(cascade_name(base, list(other)) for other in others)}) == 4


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["sr2"], {}, "sr2 takes conditions of (8, 8, 1) at 8 bits, but RUNS/base makes images of (4, 4, 1) at 8 bits"),
        (["sr", "sr"], {}, "sr takes conditions of (4, 4, 1) at 8 bits, but RUNS/sr makes images of (8, 8, 1)"),
        (["plain"], {}, "plain has model.condition='none'; expected 'low_resolution' or 'grey'"),
        (["painter"], {}, "painter has model.condition='mask'; expected 'low_resolution' or 'grey'"),
        (["none"], {}, "none holds no run (no config.json)"),
        (["sr", ""], {}, "holds an empty name; leave out the comma"),
        (["sr"], {"condition_noise": 5}, "sr: sample.condition_noise=5 exceeds degradation.noise=4"),
        (["sr"], {"sampler": "ddpm", "steps": 9}, "sample.steps=9 exceeds diffusion.steps=8"),
        (["sr"], {"task": "compare"}, "has no effect with sample.task='compare'; set the task to 'generate'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_before_anything_is_sampled(
    runs, monkeypatch, capsys, names, options, words
):
    monkeypatch.setattr(PixelFile, "append", lambda *_: pytest.fail("sampled"))
    assert call(runs, *names, **options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words.replace("RUNS", str(runs)) in line


def test_an_image_to_image_model_cannot_begin_a_cascade(runs, capsys):
    assert sample(runs / "sr", cascade=runs / "sr2") == 2
    assert "cannot begin a cascade; give the run that makes its conditions as --workdir" in capsys.readouterr().err


def test_noise_of_conditions_that_no_run_takes_is_refused(runs):
    settings = config(data=LARGE | {"image_size": 8}, sample={"cascade": str(runs / "sr2"), "condition_noise": 1})
    with pytest.raises(UserError, match="condition_noise=1 has no effect, since no run of sample.cascade"):
        open_stages(settings, runs / "base")
