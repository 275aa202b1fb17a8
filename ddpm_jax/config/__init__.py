"""The configuration: recipe or JSON in, frozen and checked Config out."""

from ddpm_jax.config.checks import TYPE_NAMES, checked, resolutions
from ddpm_jax.config.convert import (
    MADE_WITH,
    changes,
    config_of,
    defaults,
    differences,
    flatten,
    from_json,
    to_config_dict,
    to_json,
    to_tree,
)
from ddpm_jax.config.recipes import check_overrides, load_recipe, override
from ddpm_jax.config.sections import Config
from ddpm_jax.config.variants import Recipe, apply_variant

__all__ = [
    "MADE_WITH",
    "TYPE_NAMES",
    "Config",
    "Recipe",
    "apply_variant",
    "changes",
    "check_overrides",
    "checked",
    "config_of",
    "defaults",
    "differences",
    "flatten",
    "from_json",
    "load_recipe",
    "override",
    "resolutions",
    "to_config_dict",
    "to_json",
    "to_tree",
]
