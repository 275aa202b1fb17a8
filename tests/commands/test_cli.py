"""Flags, modes and exit codes: a user's mistake is one line and exit code 2, and no run is created."""

import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_jax.commands import cli
from ddpm_jax.commands.plan import PlanOptions
from ddpm_jax.config import load_recipe, override

CONFIGS = Path(__file__).parents[2] / "configs"
DIGITS = f"--config={CONFIGS}/digits.py:smoke"
MISTAKES = {
    "no workdir": ([DIGITS], "--workdir is missing"),
    "no config": (["--workdir=W"], "--config is missing"),
    "missing config": ([f"--config={CONFIGS}/digts.py", "--workdir=W"], "is neither a Python file nor a recipe"),
    "unknown variant": ([f"--config={CONFIGS}/digits.py:tiny", "--workdir=W"], "no variant 'tiny'"),
    "unknown mode": (["--mode=trian", DIGITS, "--workdir=W"], "--mode=trian does not exist; did you mean train?"),
    "unknown flag": ([DIGITS, "--wrkdir=W"], "is not a flag; did you mean workdir?"),
    "stray word": ([DIGITS, "--workdir=W", "resume"], "'resume' is not a flag; write --name=value."),
    "unknown field": (
        [DIGITS, "--workdir=W", "--config.model.chanels=3"],
        "--config.model.chanels is not a field of the configuration; did you mean model.channels",
    ),
    "wrong type": (
        [DIGITS, "--workdir=W", "--config.train.steps=many"],
        "train.steps='many' has the wrong type; expected a w",
    ),
    "out of range": ([DIGITS, "--workdir=W", "--config.train.steps=0"], "train.steps=0 is out of range"),
    "contradiction": (
        [DIGITS, "--workdir=W", "--config.data.image_size=9"],
        "data.image_size=9 must be divisible by 2",
    ),
    "no run": (["--mode=sample", "--workdir=W"], "holds no run"),
    "folder without path": ([f"--config={CONFIGS}/folder.py", "--workdir=W"], "data.path is not set"),
    "file in the way": ([DIGITS, "--workdir=F/x"], "cannot be created (Not a directory)"),
    "file as workdir": ([DIGITS, "--workdir=F"], "cannot be created (it is a file)"),
    "plan without the mode": (["--mode=sample", "--workdir=W", "--plan.price=2"], "--plan.price=2 is for --mode=plan"),
    "unknown flag of a plan": (["--mode=plan", DIGITS, "--plan.devces=3"], "devces is not a field of --plan; did you"),
    "plan out of range": (["--mode=plan", DIGITS, "--plan.devices=0"], "plan.devices=0 is out of range; expected at"),
    "plan of another type": (["--mode=plan", DIGITS, "--plan.price=low"], "plan.price='low' has the wrong type"),
    "plan as configuration": (["--mode=plan", DIGITS, "--config.plan.devices=8"], "write --plan.devices=8"),
    "forgotten prefix": ([DIGITS, "--workdir=W", "--data.batch_size=3"], "did you mean --config.data.batch_size=3?"),
    "negated and set": ([DIGITS, "--workdir=W", "--noconfig.data.flip=True"], "data.flip='True' has the wrong type"),
    "URL without bucket": ([DIGITS, "--workdir=gs://"], "gs:// names no folder in a bucket"),
    "URL of an unknown store": ([DIGITS, "--workdir=nowhere://x/y"], "nowhere://x/y has an unknown scheme"),
    "eta for ddpm": ([DIGITS, "--workdir=W", "--config.sample.eta=0.5"], "no effect with sample.sampler='ddpm'"),
}


def run(argv, tmp_path, capsys):
    (tmp_path / "F").write_text("a file")
    code = cli.main(["main.py", *(arg.replace("=W", f"={tmp_path}/W").replace("=F", f"={tmp_path}/F") for arg in argv)])
    lines = capsys.readouterr().err.splitlines()
    return code, lines


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(name, tmp_path, capsys):
    argv, words = MISTAKES[name]
    code, lines = run(argv, tmp_path, capsys)
    assert code == 2
    assert len(lines) == 1 and words in lines[0]
    assert not (tmp_path / "W" / "config.json").exists()


def test_jobs_of_several_processes_cannot_use_a_url(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    code, lines = run([DIGITS, f"--workdir=file://{tmp_path}/x"], tmp_path, capsys)
    assert code == 2 and len(lines) == 1 and "is for jobs of one process" in lines[0]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "text", ["import nothing_of_the_kind", "def get_config(: pass", "x = 1", "def get_config(): 1 / 0"]
)
def test_a_recipe_that_cannot_be_loaded_is_named(text, tmp_path, capsys):
    (tmp_path / "recipe.py").write_text(text)
    code, lines = run([f"--config={tmp_path}/recipe.py", "--workdir=W"], tmp_path, capsys)
    assert code == 2 and len(lines) == 1 and "recipe.py cannot be loaded" in lines[0]


def test_help_shows_modes_and_examples(capsys):
    assert cli.main(["main.py", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--mode=train|sample" in text and "--workdir" in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [*((value, True) for value in ("=True", "=true", "=TRUE", "=t", "=1", ""))]
    + [*((value, False) for value in ("=False", "=false", "=f", "=0"))],
)
def test_every_spelling_of_a_boolean_means_the_same(value, expected):
    flags = cli.parse_flags(["main.py", "--workdir=W", f"--config.evaluate.every_checkpoint{value}"])
    config = override(load_recipe(str(CONFIGS / "digits.py")), flags.overrides)
    assert config.evaluate.every_checkpoint is expected


def test_flags_of_a_plan_are_parsed_as_their_types():
    flags = ["--mode=plan", "--config=digits", "--plan.devices=64", "--plan.memory=80", "--plan.price="]
    assert cli.parse_flags(["main.py", *flags]).plan == PlanOptions(devices=64, memory=80.0)


def test_overrides_are_parsed_as_their_fields_types():
    flags = ["--config.model.multipliers=(1, 2, 4)", "--config.sample.steps=5", "--config.sample.timesteps=(8, 3)"]
    config = override(load_recipe(str(CONFIGS / "digits.py")), [*flags, "--config.data.path=x"])
    assert config.model.multipliers == (1, 2, 4)
    assert (config.sample.steps, config.sample.timesteps, config.data.path) == (5, (8, 3), "x")


def test_an_empty_value_clears_a_field():
    recipe = load_recipe(str(CONFIGS / "digits.py"))
    flags = ["--config.sample.checkpoint=20", "--config.sample.timesteps=(5, 3)", "--config.data.filter=Young"]
    config = override(recipe, flags)
    for clearing in ("", "None"):
        optional = [f"--config.{name}={clearing}" for name in ("sample.checkpoint", "data.filter")]
        cleared = override(config, ["--config.sample.timesteps=", *optional])
        assert (cleared.sample.checkpoint, cleared.sample.timesteps, cleared.data.filter) == (None, (), None)


@pytest.mark.parametrize(("started", "words"), [("/usr/bin/ddpm-jax", "ddpm-jax"), ("main.py", "python main.py")])
def test_messages_name_the_command_as_it_was_started(monkeypatch, tmp_path, capsys, started, words):
    monkeypatch.setattr(sys, "argv", [started])
    assert cli.main([started, "--mode=sample", f"--workdir={tmp_path}"]) == 2
    assert f"train one: {words} --config" in capsys.readouterr().err
    assert cli.main([started, "--help"]) == 0
    assert f"\n  {words} --mode=sample" in capsys.readouterr().out


def test_mistakes_are_found_without_assert_statements(tmp_path):
    command = [sys.executable, "-O", "main.py", DIGITS, f"--workdir={tmp_path}/run", "--config.model.norm_groups=3"]
    done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True)
    assert done.returncode == 2 and "must be a multiple of model.norm_groups=3" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()
