"""From a recipe and --config.FIELD=VALUE flags to a ConfigDict, which convert.py makes a Config of."""

import difflib
import importlib.util
import re
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ddpm_jax.config.checks import TYPE_NAMES
from ddpm_jax.config.convert import config_of, flatten, optional_fields, to_config_dict
from ddpm_jax.config.sections import Config
from ddpm_jax.errors import UserError, nearest

RECIPES = Path(__file__).parents[1] / "configs"
"""Of a checkout, a link to its configs/."""
RECIPE_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def load_recipe(recipe: str | None) -> ConfigDict:
    """The ConfigDict of FILE.py or FILE.py:VARIANT, or of a recipe that comes with the package, by its name."""
    if not recipe:
        raise UserError("--config is missing; name a recipe to train, such as --config=configs/digits.py (see --help).")
    name, _, variant = recipe.partition(":")
    path = Path(name)
    shipped = {path.stem: path for path in RECIPES.glob("*.py")}
    if not path.is_file() and path.stem in shipped and name in (path.stem, f"configs/{path.stem}.py"):
        path = shipped[path.stem]
    if not path.is_file() or path.suffix != ".py":
        near = difflib.get_close_matches(path.stem, shipped, n=3) or sorted(shipped)
        raise UserError(f"--config={name} is neither a Python file nor a recipe; recipes are {', '.join(near)}.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config(variant) if variant else module.get_config()
    except RECIPE_FAULTS as error:
        raise UserError(f"--config={recipe} cannot be loaded: {type(error).__name__}: {error}") from error


def override(config: ConfigDict, overrides: list[str]) -> ConfigDict:
    """The same ConfigDict with the fields of --config.FIELD=VALUE set, each parsed as the field's type."""
    # Every field becomes a flag, also where a recipe sets only some.
    config = to_config_dict(config_of(config))
    known = flatten(config_of(config))
    for arg in overrides:
        name = re.sub(r"^--?(no)?config\.", "", arg.split("=")[0])
        if name not in known:
            raise UserError(f"--config.{name} is not a field of the configuration; {nearest(name, known)}")
    overrides = [arg for arg in overrides if not _clears(arg, known, config)]
    values = flags.FlagValues()
    argv = ["main.py", *overrides]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, ValueError) as error:
        raise _mistyped(overrides, known, str(error)) from error
    return values.config


def _clears(arg: str, known: dict[str, Any], config: ConfigDict) -> bool:
    """Whether --config.FIELD= takes a field back, to None or to an empty list, which is then done."""
    name, _, value = re.sub(r"^--?config\.", "", arg).partition("=")
    if "=" not in arg or value not in ("", "None"):
        return False
    if isinstance(known[name], tuple) and not value:
        config.update_from_flattened_dict({name: ()})
    elif name in optional_fields():
        config.update_from_flattened_dict({name: None})
    else:
        return False
    return True


def _mistyped(overrides: list[str], known: dict[str, Any], message: str) -> UserError:
    """The error for a value that its field's flag cannot parse."""
    for arg in overrides:
        name, _, value = re.sub(r"^--?(no)?config\.", "", arg).partition("=")
        if f"config.{name}" in message:
            kind = (
                "whole numbers such as (1, 2, 2)"
                if isinstance(known[name], tuple)
                else TYPE_NAMES[optional_fields().get(name, type(known[name]))]
            )
            return UserError(f"{name}={value!r} has the wrong type; expected {kind}.")
    return UserError(" ".join(message.split()))


def check_overrides(args: list[str], known: list[str]) -> None:
    """Refuses arguments that set no field of the configuration; known: the names of the command's own flags."""
    for arg in args:
        if not re.match(r"--?(no)?config\.", arg):
            name = arg.lstrip("-").split("=")[0]
            hint = nearest(name, known) if arg.startswith("-") else "write --name=value."
            if name.split(".")[0] in vars(Config()):
                hint = f"did you mean --config.{arg.lstrip('-')}?"
            raise UserError(f"{arg!r} is not a flag; {hint}")
