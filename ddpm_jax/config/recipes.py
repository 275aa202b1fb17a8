"""From a recipe and --config.FIELD=VALUE flags to a ConfigDict, which convert.py turns into a Config."""

import importlib.util
import re
from pathlib import Path
from typing import Any, TypeVar

from absl import flags
from ml_collections import ConfigDict, config_flags

from ddpm_jax.config.convert import config_of, section_of, to_config_dict
from ddpm_jax.config.field_types import TYPE_NAMES, check_fields, field_types, value_type, without_none
from ddpm_jax.config.sections import Config
from ddpm_jax.errors import UserError, nearest

RECIPES = Path(__file__).parents[1] / "configs"
"""A link to configs/ in a checkout."""
RECIPE_ERRORS = (
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
Section = TypeVar("Section")


def load_recipe(recipe: str | None) -> ConfigDict:
    """The ConfigDict of FILE.py or FILE.py:VARIANT, or of one of the package's recipes by its name."""
    if not recipe:
        raise UserError("--config is missing; name a recipe to train, such as --config=configs/digits.py (see --help).")
    name, _, variant = recipe.partition(":")
    path = Path(name)
    shipped = {path.stem: path for path in RECIPES.glob("*.py")}
    if not path.is_file() and path.stem in shipped and name in (path.stem, f"configs/{path.stem}.py"):
        path = shipped[path.stem]
    if not path.is_file() or path.suffix != ".py":
        raise UserError(f"--config={name} is neither a Python file nor a recipe; {nearest(path.stem, shipped)}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config(variant) if variant else module.get_config()
    except RECIPE_ERRORS as error:
        raise UserError(f"--config={recipe} cannot be loaded: {type(error).__name__}: {error}") from error


def override(config: ConfigDict, overrides: list[str]) -> ConfigDict:
    """A copy with the fields of --config.FIELD=VALUE flags set, each parsed as the field's type."""
    return _parsed("config", "the configuration", config_of(config), overrides)


def parse_section(flag: str, section: Section, args: list[str]) -> Section:
    """A copy with the fields of --FLAG.FIELD=VALUE flags set, each parsed as the field's type and checked."""
    changed = section_of(type(section), _parsed(flag, f"--{flag}", section, args))
    check_fields(changed, f"{flag}.")
    return changed


def _parsed(flag: str, title: str, section: Any, args: list[str]) -> Any:
    """A ConfigDict of the section with the flags applied; title: of the section in errors."""
    tree, hints = to_config_dict(section), field_types(type(section))
    values, remaining = flags.FlagValues(), []
    for arg in args:
        name, given, value = _name_and_value(flag, arg)
        if name not in hints:
            raise UserError(f"--{flag}.{name} is not a field of {title}; {nearest(name, hints)}")
        if given and without_none(hints[name])[1] and value in ("", "None"):
            tree.update_from_flattened_dict({name: None})
        elif given and not value and value_type(hints[name]) is tuple:
            tree.update_from_flattened_dict({name: ()})
        else:
            remaining.append(arg)
    argv = ["main.py", *remaining]
    config_flags.DEFINE_config_dict(flag, tree, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, ValueError) as error:
        raise _mistyped(flag, remaining, hints, str(error)) from error
    return values[flag].value


def _name_and_value(flag: str, arg: str) -> tuple[str, str, str]:
    """The field, "=" if there is a value, and the value of --FLAG.FIELD=VALUE or --noFLAG.FIELD."""
    return re.sub(rf"^--?(no)?{flag}\.", "", arg).partition("=")


def _mistyped(flag: str, args: list[str], hints: dict[str, Any], message: str) -> UserError:
    """The error for a value that its field's flag cannot parse."""
    for arg in args:
        name, _, value = _name_and_value(flag, arg)
        if f"{flag}.{name}" in message:
            shown = name if flag == "config" else f"{flag}.{name}"
            return UserError(f"{shown}={value!r} has the wrong type; expected {TYPE_NAMES[value_type(hints[name])]}.")
    return UserError(" ".join(message.split()))


def check_overrides(args: list[str], known: list[str]) -> None:
    """Refuses arguments that do not set a field of the configuration; known: names of the command's own flags."""
    for arg in args:
        if not re.match(r"--?(no)?config\.", arg):
            name = arg.lstrip("-").split("=")[0]
            hint = nearest(name, known) if arg.startswith("-") else "write --name=value."
            if name.split(".")[0] in vars(Config()):
                hint = f"did you mean --config.{arg.lstrip('-')}?"
            raise UserError(f"{arg!r} is not a flag; {hint}")
