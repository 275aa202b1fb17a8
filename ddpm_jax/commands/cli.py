"""The command line: flags and modes. main.py only calls `main`; exit_codes.py lists the exit codes."""

import dataclasses
import logging
import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags as absl_flags

from ddpm_jax.commands.condition import sample_conditions
from ddpm_jax.commands.edit import TASKS as EDITS
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.output_folder import create_output_folder, read_only_explained
from ddpm_jax.commands.plan import PlanOptions, plan
from ddpm_jax.commands.sample import sample
from ddpm_jax.commands.target import prepare_libtpu
from ddpm_jax.commands.train import train
from ddpm_jax.config import (
    Config,
    check_overrides,
    config_of,
    flatten,
    load_recipe,
    override,
    parse_section,
    to_config_dict,
)
from ddpm_jax.config.advice import before_sampling
from ddpm_jax.config.recipes import RECIPES
from ddpm_jax.errors import UserError, nearest, program, script, shell_command
from ddpm_jax.generation.requests import for_sampler
from ddpm_jax.interop.safetensors_file import PRETRAINED, find_file
from ddpm_jax.runtime.cpu import reuse_memory
from ddpm_jax.runtime.devices import is_distributed, join_cluster, wait_for_all
from ddpm_jax.runtime.exit_codes import end_process, exit_code, exit_without_barrier, explanation
from ddpm_jax.runtime.files import user_cache
from ddpm_jax.runtime.log import quieten_log, start_log
from ddpm_jax.runtime.urls import AnyPath, as_path, check_folder, is_url, local_folder, store_errors
from ddpm_jax.workdir import read_config

COMMANDS = {"train": train, "evaluate": evaluate}
TASKS = {"generate": sample, "condition": sample_conditions, **EDITS}
"""--mode=sample by sample.task."""
MODES = ("train", "sample", "evaluate", "plan")
SAMPLING_MAY_SET = ("sample.", "evaluate.", "log.", "data.path", "data.cache")
USAGE = """\
Trains a diffusion model, resumes it, samples from it, measures its samples, or plans what training will cost.

EXAMPLES
  python main.py --config=configs/digits.py --workdir=runs/digits           train, or resume where it stopped
  python main.py --config=configs/folder.py --config.data.path=photos/ --workdir=runs/mine
  python main.py --config=configs/cifar10.py:smoke --workdir=runs/try       a quick check of a recipe, on a CPU
  python main.py --mode=sample --workdir=runs/digits --config.sample.sampler=ddim --config.sample.steps=50
  python main.py --mode=evaluate --workdir=runs/digits --config.evaluate.features=pixels
  python main.py --mode=plan --config=configs/celeba64.py --plan.devices=8 --config.model.dtype=bfloat16

FLAGS
  --mode=train|sample|evaluate|plan
                          train by default
  --workdir=FOLDER        the run's configuration, checkpoints, samples and TensorBoard event files; a folder, or a URL
                          such as gs://bucket/runs/x (docs/cloud.md)
  --config=FILE[:VARIANT] the recipe to train, a file or the name of one below; resuming and sampling use the
                          configuration in the workdir
  --config.FIELD=VALUE    sets one field
  --plan.devices=64  --plan.memory=80  --plan.teraflops=200  --plan.price=2.5
                          with --mode=plan: the number of devices to plan for; GiB, TFLOP/s and hourly price of each
  --plan.target=v5e:4x4   with --mode=plan: a slice of TPUs, which need not exist (pip install 'jax[tpu]')
  --help                  this text

FIELDS THAT ARE OFTEN SET
  data.path=photos/  data.image_size=64  data.batch_size=32  data.flip=True  data.filter="Smiling & ~Eyeglasses"
  model.channels=64  model.multipliers="(1,2,4)"  model.classes=10  model.dtype=bfloat16  model.remat=True
  train.steps=20000  train.accumulate=4  train.sharding=fsdp  optimizer.learning_rate=1e-4  seed=1
  sample.sampler=ddim  sample.steps=50  sample.count=100  sample.seed=1  sample.label=cat  sample.guidance=2
  checkpoint.every=1000  checkpoint.keep=3  log.preview_every=1000  log.wandb=True

All fields and their defaults: docs/configuration.md. Recipes: {recipes}.
"""

logger = logging.getLogger("ddpm_jax")


class Flags(NamedTuple):
    """The parsed flags."""

    mode: str
    recipe: str | None
    """--config: a recipe's file or name."""
    workdir: str | None
    """A folder or URL; None for the plan of a recipe."""
    overrides: list[str]
    """Arguments such as --config.train.steps=9."""
    plan: PlanOptions


def main(argv: list[str]) -> int:
    """Runs the command line (argv[0] is the program) and returns the exit code."""
    return exit_without_barrier(lambda: exit_code(lambda: main_without_exit(argv)))


def main_without_exit(argv: list[str]) -> int:
    """Runs the command line and returns the exit code; raises UserError for wrong flags."""
    if any(arg in ("--help", "-help", "-h", "--helpfull", "--helpshort") for arg in argv[1:]):
        print(usage(), end="")
        return 0
    flags = parse_flags(argv)
    _check_workdir(flags)
    workdir = as_path(flags.workdir, "--workdir") if flags.workdir else None
    with store_errors(_store_of(workdir)):
        if workdir is not None:
            check_folder(workdir)
        return run_mode(flags, workdir)


def _store_of(workdir: AnyPath | None) -> str:
    """The store that errors of stores are about: the workdir's, or else the data's."""
    return "A bucket" if workdir is None or isinstance(workdir, Path) else str(workdir)


def usage() -> str:
    """The text of --help, with bold headings on a terminal."""
    text = USAGE.format(recipes=", ".join(sorted(path.stem for path in RECIPES.glob("*.py"))))
    if program() == ["ddpm-jax"]:
        text = text.replace("python main.py", "ddpm-jax").replace("configs/", "").replace(".py", "")
    return re.sub(r"^([A-Z ]+)$", "\033[1m\\1\033[0m", text, flags=re.MULTILINE) if sys.stdout.isatty() else text


def command() -> None:
    """The entry point of main.py, and of `ddpm-jax` in the installed package."""
    end_process(main(sys.argv))


def run_mode(flags: Flags, workdir: AnyPath | None) -> int:
    """Runs a mode and returns the exit code; workdir: None for the plan of a recipe."""
    config = resolve_config(flags, workdir)
    _use_compilation_cache()
    # Against JAX_TRANSFER_GUARD: a command transfers arrays in many places, on threads of their own, too.
    jax.config.update("jax_transfer_guard", "allow")
    reuse_memory()
    if flags.plan.target:
        prepare_libtpu(flags.plan.target)
    join_cluster()
    _find_devices()
    if workdir is None or flags.mode == "plan":  # A plan writes nothing, not even a log.
        plan(config, flags.plan, workdir)
        return 0
    if flags.mode == "train":
        _create(workdir)
        code = _run_logged(flags.mode, config, workdir, workdir)
    else:
        with read_only_explained(workdir) if config.sample.out is None else nullcontext():
            folder = create_output_folder(config, workdir)
            code = _run_logged(flags.mode, config, workdir, folder)
    if not code:
        wait_for_all("the end")  # Process 0 may still be writing.
    return code


def _run_logged(mode: str, config: Config, workdir: AnyPath, folder: AnyPath) -> int:
    """Runs a mode with its log in a folder, and returns its exit code."""
    task = TASKS[config.sample.task] if mode == "sample" else COMMANDS[mode]
    if jax.process_index() > 0:
        quieten_log()
        task(config, workdir)
        return 0

    def run(log: Path) -> None:
        start_log(log)
        for line in before_sampling(config) if mode != "train" else ():
            logger.warning("%s", line)
        with store_errors(_store_of(workdir)):
            task(config, workdir)

    if isinstance(folder, Path):
        run(folder / f"{mode}.log")
        return 0
    code = 0
    try:
        with local_folder(folder, f"{mode}.log") as logs:
            code = exit_code(lambda: run(logs.path / f"{mode}.log"))  # An error is logged before the log is uploaded.
    except OSError as error:
        if not code:
            raise
        logger.error("%s", explanation(error))
    return code


def resolve_config(flags: Flags, workdir: AnyPath | None) -> Config:
    """The configuration of the recipe, or of the run if none is given, with the overrides."""
    trains = flags.mode in ("train", "plan")
    if flags.recipe and not trains:
        raise UserError(
            f"--config={flags.recipe} is for training; --mode={flags.mode} takes the configuration from {workdir}."
        )
    begun = workdir is not None and (workdir / "config.json").exists()
    if workdir is None or flags.recipe or (flags.mode == "train" and not begun):
        return config_of(override(load_recipe(flags.recipe), flags.overrides))
    trained = read_config(workdir)
    overridden: Any = override(to_config_dict(trained), flags.overrides)
    if trains:
        return config_of(overridden)
    # The trained settings of one sampler do not apply to another.
    start = dataclasses.replace(trained, sample=for_sampler(trained.sample, overridden.sample.sampler))
    config = config_of(override(to_config_dict(start), flags.overrides))
    _refuse_retraining(trained, config)
    return config


def parse_flags(argv: list[str]) -> Flags:
    """The flags of argv (argv[0] is the program); raises UserError for unknown and missing ones."""
    values = absl_flags.FlagValues()
    for name, default in (("mode", "train"), ("config", None), ("workdir", None)):
        absl_flags.DEFINE_string(name, default, "", flag_values=values)
    try:
        _, *rest = values(argv, known_only=True)
    except absl_flags.Error as error:
        raise UserError(f"{error} (see --help)") from error
    plan_flags = [arg for arg in rest if re.match(r"--?(no)?plan\.", arg)]
    overrides = [arg for arg in rest if arg not in plan_flags]
    check_overrides(overrides, ["mode", "config", "workdir", "help"])
    if values.mode not in MODES:
        raise UserError(f"--mode={values.mode} does not exist; {nearest(values.mode, MODES)}")
    if plan_flags and values.mode != "plan":
        raise UserError(f"{plan_flags[0]} is for --mode=plan; leave it out of --mode={values.mode}.")
    for arg in overrides:
        if re.match(r"--?config\.plan\.", arg):
            raise UserError(
                f"{arg} is not a field of the configuration; write {arg.replace('config.', '', 1)} with --mode=plan."
            )
    if not values.workdir and values.mode != "plan":
        raise UserError("--workdir is missing; name the run's folder, such as --workdir=runs/x (see --help).")
    if not values.workdir and not values.config:
        raise UserError("--mode=plan needs a recipe or a run; give --config=configs/digits.py, or --workdir=runs/x.")
    options = parse_section("plan", PlanOptions(), plan_flags)
    return Flags(values.mode, values.config, values.workdir or None, overrides, options)


def _check_workdir(flags: Flags) -> None:
    """Raises UserError for unusable workdirs, and for wrong overrides before anything is fetched from a URL."""
    workdir = flags.workdir
    if workdir and workdir.startswith(PRETRAINED):
        find_file(workdir)  # Refuses names that are mistyped.
        raise UserError(
            f"--workdir={workdir} is for load_run; convert it to a run first: "
            + shell_command("python", script("scripts/import_safetensors.py"), workdir, "runs/imported")
        )
    if is_url(workdir) and is_distributed() and not str(workdir).startswith("gs://"):
        raise UserError(
            f"--workdir={workdir} is for jobs of one process, since only at gs:// can several write a checkpoint; use "
            "a bucket there, or a folder that all machines share (docs/cloud.md)."
        )
    if is_url(workdir) and flags.recipe:
        config_of(override(load_recipe(flags.recipe), flags.overrides))


def _refuse_retraining(trained: Config, config: Config) -> None:
    before, now = flatten(trained), flatten(config)
    for name in (name for name in now if now[name] != before[name] and not name.startswith(SAMPLING_MAY_SET)):
        raise UserError(
            f"{name} was {before[name]!r} when the run was trained and cannot be set to {now[name]!r} for sampling; "
            "only sample.* and evaluate.* can."
        )


def _create(workdir: AnyPath) -> None:
    if not isinstance(workdir, Path):
        return  # A bucket has no folders.
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if workdir.is_file() else error.strerror
        raise UserError(f"--workdir={workdir} cannot be created ({reason}); choose a writable folder.") from error


def _find_devices() -> None:
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            f"JAX finds no device (JAX_PLATFORMS={platforms!r}): unset it, or install JAX for this accelerator."
        ) from error


def _use_compilation_cache() -> None:
    """Keeps compiled code in a per-user folder, so that later starts of a command are quick."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(user_cache("xla")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
