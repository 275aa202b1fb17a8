"""The Python interface, on a run that the command line trained."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from ddpm_jax import UserError, load_run
from ddpm_jax.builders import build_schedule
from ddpm_jax.commands import cli
from ddpm_jax.diffusion.process import per_image
from tests.end_to_end.commands import RECIPE

pytestmark = pytest.mark.xdist_group("run")  # They share a run.


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "conditional"
    options = ["--config.model.classes=10", "--config.log.preview_every=0", "--config.train.steps=12"]
    options += ["--config.optimizer.learning_rate=1e-2", "--config.optimizer.ema_snapshots=4"]
    assert cli.main(["main.py", RECIPE, f"--workdir={workdir}", *options]) == 0
    return workdir


@pytest.fixture(scope="module")
def run(workdir):
    return load_run(workdir)


def test_samples_depend_only_on_seed_and_index(run):
    images = run.sample(6, sampler="ddim", steps=4, seed=1)
    assert images.shape == (6, 8, 8, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(run.sample(6, sampler="ddim", steps=4, seed=1), images)
    again = run.sample(6, sampler="ddim", steps=4, seed=1, batch_size=4)
    assert np.abs(again.astype(int) - images).max() <= 1
    assert np.abs(run.sample(6, sampler="ddim", steps=4, seed=2).astype(int) - images).max() > 1


def test_noise_is_the_start_of_sampling(run):
    noise = run.noise(3, seed=5)
    assert noise.shape == (3, 8, 8, 1) and noise.dtype == np.float32
    np.testing.assert_array_equal(run.noise(2, seed=5), noise[:2])
    # One step of DDIM from t = T is the prediction of x0 itself.
    images = run.sample(3, sampler="ddim", steps=1, spacing="trailing", seed=5)
    x0 = run.denoiser(noise, np.full(3, 8), np.arange(3)).x0
    assert np.abs(np.round((np.clip(x0, -1, 1) + 1) * 127.5) - images).max() <= 1


def test_predictions_add_up_to_x_t(run, draw):
    x_t, t = draw.normal(size=(4, 8, 8, 1)).astype(np.float32), np.array([1, 3, 5, 8])
    prediction = run.denoiser(x_t, t)
    schedule = build_schedule(run.config)
    rebuilt = (
        per_image(schedule.signal_rate, t, x_t) * prediction.x0
        + per_image(schedule.noise_rate, t, x_t) * prediction.eps
    )
    np.testing.assert_allclose(rebuilt, x_t, atol=1e-4)


def test_labels_are_names_or_numbers_and_may_be_guided(run):
    by_name = run.sample(2, label="3")
    np.testing.assert_array_equal(run.sample(2, label=3), by_name)
    assert np.abs(run.sample(2, label=4).astype(int) - by_name).max() > 0
    assert np.abs(run.sample(2, label=3, guidance=3).astype(int) - by_name).max() > 0
    with pytest.raises(UserError, match="'eleven' is not a label of this run"):
        run.sample(2, label="eleven")


def test_ema_and_raw_parameters_of_any_kept_step_are_loaded(workdir, run):
    assert run.step == 12
    raw = load_run(workdir, ema=False)
    assert np.abs(raw.sample(2).astype(int) - run.sample(2)).max() > 0
    assert load_run(workdir, step=10).step == 10
    with pytest.raises(UserError, match="keeps no checkpoint of step 7"):
        load_run(workdir, step=7)


def test_an_ema_of_another_width_is_loaded_at_the_step_of_a_snapshot(workdir, run):
    wide = load_run(workdir, ema_width=0.1)
    assert wide.step == 12 and load_run(workdir, step=8, ema_width=0.1).step == 8
    assert np.abs(wide.sample(2).astype(int) - run.sample(2)).max() > 0
    with pytest.raises(UserError, match="no intact snapshot of step 10; set sample.checkpoint to .* rebuilt: 4, 8, 12"):
        load_run(workdir, step=10, ema_width=0.1)
    with pytest.raises(UserError, match="sample.ema_width=0.1 has no effect with sample.ema=False"):
        load_run(workdir, ema=False, ema_width=0.1)
    with pytest.raises(UserError, match="pretrained:digits has no snapshots of EMAs, .* leave ema_width out"):
        load_run("pretrained:digits", ema_width=0.1)


def test_widths_to_evaluate_in_the_configuration_of_a_run_concern_no_other_command(workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    config["evaluate"]["ema_widths"] = [0.05]
    (copy / "config.json").write_text(json.dumps(config))
    assert load_run(copy, ema=False).step == load_run(copy, ema_width=0.1).step == 12


def test_another_sampler_starts_from_its_own_defaults(run, workdir):
    settings = dataclasses.replace(run.config.sample, sampler="dpm_solver", order=3, timesteps=(8, 5, 2))
    solved = dataclasses.replace(run, config=dataclasses.replace(run.config, sample=settings))
    listed = solved.sample(2, seed=3)
    np.testing.assert_array_equal(run.sample(2, seed=3, sampler="dpm_solver", order=3, timesteps=[8, 5, 2]), listed)
    assert np.abs(solved.sample(2, seed=3, sampler="unipc").astype(int) - listed).max() > 0
    np.testing.assert_array_equal(solved.sample(2, seed=3, sampler="ddpm"), run.sample(2, seed=3, sampler="ddpm"))


@pytest.mark.parametrize(
    ("call", "option"),
    [
        ({"sampler": "dpm_solver", "steps": 4}, {"spacing": "linspace_open"}),
        ({"sampler": "dpm_solver", "steps": 4}, {"final": "sigma_min"}),
        ({"sampler": "dpm_solver", "steps": 4}, {"order": 1}),
        ({"sampler": "unipc", "steps": 4}, {"order": 1}),
        ({"sampler": "unipc", "steps": 4}, {"threshold": "none"}),
        ({"sampler": "ddim", "steps": 4, "threshold": "dynamic"}, {"percentile": 0.5}),
        ({"sampler": "ddim", "steps": 4, "threshold": "dynamic", "percentile": 1}, {"percentile_max": 1}),
        ({"sampler": "ddim", "steps": 4}, {"eta": 1}),
        ({"sampler": "ddim", "steps": 4}, {"keep_eps": True}),
        ({"sampler": "ddpm"}, {"variance": "fixed_small"}),
        ({"label": 3}, {"guidance": 3}),
        ({"label": 3, "guidance": 3}, {"guidance_interval": (2, 6)}),
        ({"label": 3, "guidance": 3}, {"guidance_rescale": 1}),
    ],
)
def test_every_option_of_sampling_changes_the_images(run, call, option):
    images = run.sample(4, seed=4, **call)
    assert images.dtype == np.uint8
    assert np.abs(images.astype(int) - run.sample(4, seed=4, **call, **option)).max() > 0


def test_mistakes_are_reported(run, tmp_path):
    with pytest.raises(UserError, match="There is no option stepz; did you mean steps"):
        run.sample(2, stepz=3)
    with pytest.raises(UserError, match="sample.steps=9 exceeds diffusion.steps=8"):
        run.sample(2, steps=9)
    with pytest.raises(UserError, match="sample.sampler='dpm' does not exist"):
        run.sample(2, sampler="dpm")
    with pytest.raises(UserError, match="The only step is t = 1"):
        run.sample(2, sampler="ddim", steps=1, spacing="leading", final="sigma_min")
    with pytest.raises(UserError, match="no effect with sample.sampler='ddpm'; set the sampler to 'ddim'"):
        run.sample(2, eta=0.5)
    with pytest.raises(UserError, match="sample.timesteps=.* has the wrong type"):
        run.sample(2, timesteps=[[8, 4], [2, 1]])
    for option in ({"task": "vary"}, {"images": "a.png"}, {"strength": 0.3}, {"frames": "x0"}):
        with pytest.raises(UserError, match=r"There is no option"):
            run.sample(2, **option)
    with pytest.raises(UserError, match="holds no run"):
        load_run(tmp_path)


def test_a_run_may_move_to_a_folder_of_any_name_where_nothing_can_be_written(workdir, run, tmp_path, monkeypatch):
    moved = tmp_path / "my rün #1"
    shutil.copytree(workdir, moved)
    monkeypatch.chdir(tmp_path)
    before = sorted(moved.rglob("*"))
    for path in [*before, moved]:
        path.chmod(path.stat().st_mode & ~0o222)
    options = {"sampler": "ddim", "steps": 2, "label": 3}
    np.testing.assert_array_equal(load_run("my rün #1/").sample(2, **options), run.sample(2, **options))
    assert sorted(moved.rglob("*")) == before


def test_two_runs_in_one_process_keep_their_own_schedules_and_parameters(workdir, run):
    pretrained = load_run("pretrained:digits")
    own, other = run.sample(2, seed=1), pretrained.sample(2, seed=1, sampler="ddim", steps=2)
    assert (run.config.diffusion.steps, pretrained.config.diffusion.steps) == (8, 1000)
    np.testing.assert_array_equal(load_run(workdir).sample(2, seed=1), own)
    np.testing.assert_array_equal(pretrained.sample(2, seed=1, sampler="ddim", steps=2), other)


def test_labels_of_the_denoiser_are_checked(run):
    x_T = run.noise(2)
    for labels in ([1, 10], [-2, 1], [0.5, 1.5]):
        with pytest.raises(UserError, match=r"must hold a whole number in -1..9 for each of \[2\]"):
            run._labels(labels, 2)
    none = run.denoiser(x_T, [8, 8], [-1, -1]).x0
    np.testing.assert_array_equal(none, run.denoiser(x_T, [8, 8]).x0)


def test_sampling_a_run_without_checkpoints_is_refused(workdir, tmp_path, capsys):
    for name in ("config.json", "labels.json"):
        (tmp_path / name).write_bytes((workdir / name).read_bytes())
    assert cli.main(["main.py", "--mode=sample", f"--workdir={tmp_path}"]) == 2
    assert "holds no checkpoint yet; train first" in capsys.readouterr().err


def test_calls_that_differ_write_to_different_folders(workdir, capsys):
    for options in ([], ["--config.sample.label=3"], ["--config.sample.label=3", "--config.sample.guidance=2.0"]):
        assert cli.main(["main.py", "--mode=sample", f"--workdir={workdir}", *options]) == 0
    names = sorted(path.name for path in (workdir / "samples").iterdir())
    stem, pictures = "12-ddpm-8steps-seed0-n4", "strip-4-gif-4"
    assert names == sorted(f"{stem}-{said}{pictures}" for said in ("", "label-3-", "label-3-guidance-2.0-"))
    assert cli.main(["main.py", "--mode=sample", f"--workdir={workdir}", "--config.model.channels=16"]) == 2
    assert "cannot be set to 16 for sampling" in capsys.readouterr().err
