"""The digits recipe at toy size, with one stage and no attention: its training step compiles in half the time."""

from ml_collections import ConfigDict

from ddpm_jax.config import load_recipe


def get_config() -> ConfigDict:
    config = load_recipe("configs/digits.py:smoke")
    config.model.multipliers = (1,)
    config.model.attention_resolutions = ()
    return config
