"""8x8 handwritten digits that ship with the package: the first thing to train, on any computer, in a few minutes."""

from ml_collections import ConfigDict

from ddpm_jax.config import defaults


def get_config(variant: str = "") -> ConfigDict:
    config = defaults()
    config.data.source = "digits"
    config.data.image_size = 8
    config.data.channels = 1
    config.data.holdout = 0.1
    config.model.channels = 32
    config.model.multipliers = (1, 2)
    config.model.blocks = 1
    config.model.attention_resolutions = (4,)
    config.diffusion.schedule = "cosine"
    config.diffusion.prediction = "v"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup = 100
    config.optimizer.schedule = "cosine"
    config.optimizer.ema_decay = 0.995
    config.train.steps = 1500
    config.checkpoint.every = 250
    config.log.every = 25
    config.log.validate_every = 250
    config.log.preview_every = 250
    return config
