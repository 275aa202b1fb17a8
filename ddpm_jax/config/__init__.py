"""The configuration: recipe or JSON in, frozen and checked Config out."""

from ddpm_jax.config.checks import WORDS, checked, resolutions
from ddpm_jax.config.convert import (
    config_of,
    defaults,
    differences,
    flatten,
    from_json,
    mismatches,
    optional_fields,
    to_config_dict,
    to_json,
)
from ddpm_jax.config.sections import Config
from ddpm_jax.config.variants import Recipe, apply_variant

__all__ = [
    "WORDS",
    "Config",
    "Recipe",
    "apply_variant",
    "checked",
    "config_of",
    "defaults",
    "differences",
    "flatten",
    "from_json",
    "mismatches",
    "optional_fields",
    "resolutions",
    "to_config_dict",
    "to_json",
]
