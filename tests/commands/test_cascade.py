"""Cascades of runs with random parameters: the samples of one are the conditions of the next."""

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import UserError, load_run
from ddpm_jax.commands.cascade import cascade_name, open_stages, stage_config
from ddpm_jax.generation.pixel_file import PixelFile
from ddpm_jax.workdir import read_config
from tests.commands.sampled import newest, sample, sampled
from tests.interop.toy import config, random_run

pytestmark = pytest.mark.xdist_group("cascade")  # They share runs.
OPTIONS = {"count": 6, "batch_size": 4, "sampler": "ddim", "steps": 2}
TINY = {"data": {"image_size": 4, "source": "synthetic"}, "model": {"multipliers": [1], "attention_resolutions": []}}
LARGE = {"image_size": 16, "source": "synthetic"}
CLASSES = {"classes": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    random_run(folder / "base", **TINY)
    random_run(folder / "sr", model={"condition": "low_resolution"}, degradation={"factor": 2, "noise": 4})
    random_run(
        folder / "sr2",
        data=LARGE,
        model={"condition": "low_resolution", "attention_resolutions": []},
        degradation={"factor": 2},
    )
    random_run(folder / "painter", model={"condition": "mask"})
    return folder


def call(runs, *names, **options) -> int:
    cascade = ",".join(str(runs / name) if name else "" for name in names)
    return sample(runs / "base", cascade=cascade, **{**OPTIONS, **options})


def test_the_images_of_each_run_are_the_conditions_of_the_next(runs):
    assert call(runs, "sr", "sr2", seed=3, condition_noise=2) == 0
    options = {name: value for name, value in OPTIONS.items() if name != "count"}
    small = load_run(runs / "base").sample(6, seed=3, **options)
    middle = load_run(runs / "sr").sample(6, seed=4, condition=small, condition_noise=2, **options)
    large = load_run(runs / "sr2").sample(6, seed=5, condition=middle, **options)
    found = newest(runs / "base")
    np.testing.assert_array_equal(sampled(runs / "base"), large)
    assert {path.name for path in found.iterdir()} == {"grid.png", "stages.png", "images", "samples.npz"}
    rows = np.asarray(Image.open(found / "stages.png"))[2::66, 2:66:4]
    np.testing.assert_array_equal(
        rows[:3], [small[0, 0, :, 0].repeat(4), middle[0, 0, :, 0].repeat(2), large[0, 0, :, 0]]
    )


def test_an_interrupted_call_resumes_in_its_stage_to_the_same_bits(runs, monkeypatch, capsys):
    assert call(runs, "sr", seed=7) == 0
    whole, append, made = sampled(runs / "base"), PixelFile.append, []

    def interrupted(self, images):
        append(self, images)
        made.append((images.shape[1], self.count))
        if made[-1] == (8, 4):
            raise KeyboardInterrupt

    monkeypatch.setattr(PixelFile, "append", interrupted)
    assert call(runs, "sr", seed=7) == 130
    assert made == [(4, 4), (4, 6), (8, 4)]
    capsys.readouterr()
    assert call(runs, "sr", seed=7) == 0
    assert made == [(4, 4), (4, 6), (8, 4), (8, 6)]
    np.testing.assert_array_equal(sampled(runs / "base"), whole)
    printed = capsys.readouterr().err
    assert "Resuming after 6 images" in printed and "Resuming after 4 images" in printed
    assert [path for path in (runs / "base" / "samples").iterdir() if path.name.startswith(".")] == []


def test_noise_of_a_stage_is_independent_of_that_of_its_condition(runs):
    seeds = [
        stage_config(config(sample={"seed": 2**31 - 1}), read_config(runs / "sr"), runs, i).sample.seed for i in (1, 2)
    ]
    assert seeds == [0, 1]
    # Were the seeds equal, the noise of the larger image would begin with that of the smaller one.
    small, large = (load_run(runs / name).noise(2, seed=5).reshape(2, -1) for name in ("base", "sr"))
    np.testing.assert_array_equal(small, large[:, :16])


def test_labels_go_to_stages_with_the_same_names_and_guidance_to_the_base(tmp_path):
    for name, names in (("base", ["a", "b"]), ("same", ["a", "b"]), ("other", ["a", "c"])):
        sections = TINY if name == "base" else {"model": {"condition": "low_resolution"}, "degradation": {"factor": 2}}
        random_run(tmp_path / name, names, **{**sections, "model": sections["model"] | CLASSES})
    for name, labels in (("same", [1, 1, 1]), ("other", None)):
        options = {"cascade": str(tmp_path / name), "label": "b", "guidance": 2.0, "count": 3}
        base, stage = open_stages(
            config(**{**TINY, "model": TINY["model"] | CLASSES}, sample=options), tmp_path / "base"
        )
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
        (["base"], {}, "base has model.condition='none'; expected 'low_resolution' or 'grey'"),
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
