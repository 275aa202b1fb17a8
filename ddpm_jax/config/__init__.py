"""The configuration: from a recipe or JSON to a frozen, checked Config."""

from ddpm_jax.config.checks import checked
from ddpm_jax.config.convert import (
    changes,
    config_of,
    defaults,
    differences,
    fields_fixed_by,
    flatten,
    from_json,
    from_tree,
    split_names,
    to_config_dict,
    to_json,
    to_tree,
    without_folders,
)
from ddpm_jax.config.recipes import check_overrides, load_recipe, override, parse_section
from ddpm_jax.config.sections import Config
from ddpm_jax.config.variants import Recipe, apply_variant, tune_consistency

__all__ = [
    "Config",
    "Recipe",
    "apply_variant",
    "changes",
    "check_overrides",
    "checked",
    "config_of",
    "defaults",
    "differences",
    "fields_fixed_by",
    "flatten",
    "from_json",
    "from_tree",
    "load_recipe",
    "override",
    "parse_section",
    "split_names",
    "to_config_dict",
    "to_json",
    "to_tree",
    "tune_consistency",
    "without_folders",
]
