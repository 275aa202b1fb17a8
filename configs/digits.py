"""8x8 handwritten digits that ship with the package: the first thing to train, on any computer, in a few minutes.

Memory: 0.2 GiB. Cost: 10 GFLOP a step, 9 TFLOP in all: two to four minutes on two CPU cores.
Result: a validation loss of about 0.29 (velocity, mean squared error). Of 1,000 digits drawn by DDIM in 50 steps, the
five nearest training digits agree on one label for 78% to 81% (83% by DDPM), as they do for 95% of held-out digits;
classes have 7% to 12%.
Source of the numbers: chosen here by trial on two CPU cores.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import apply_variant, defaults


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
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup = 100
    config.optimizer.schedule = "cosine"
    config.optimizer.ema_decay = 0.995
    config.train.steps = 900
    config.checkpoint.every = 250
    config.log.every = 25
    config.log.validate_every = 250
    config.log.preview_every = 250
    return apply_variant(config, variant)
