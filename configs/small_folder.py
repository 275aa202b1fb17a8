"""A few hundred images of your own: a small network with dropout and augmentation that does not leak into samples.

    python main.py --config=configs/small_folder.py --config.data.path=photos/ --workdir=runs/small

Memory: TODO. Cost: TODO.
Result: TODO.
Source of the numbers: TODO.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import apply_variant, defaults


def get_config(variant: str = "") -> ConfigDict:
    config = defaults()
    config.data.image_size = 32
    config.data.batch_size = 32
    config.data.augment = 0.12
    config.data.holdout = 0.1
    config.model.channels = 32
    config.model.multipliers = (1, 2, 2)
    config.model.blocks = 1
    config.model.attention_resolutions = (8,)
    config.model.dropout = 0.1
    config.diffusion.schedule = "cosine"
    config.diffusion.prediction = "v"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup = 100
    config.optimizer.ema_decay = 0.999
    config.train.steps = 4000
    config.checkpoint.every = 500
    config.log.every = 50
    config.log.validate_every = 250
    config.log.preview_every = 1000
    return apply_variant(config, variant)
