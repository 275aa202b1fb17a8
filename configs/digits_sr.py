"""Super-resolution of the 8x8 digits that come with the package, from 4x4: a first image-to-image model.

Memory: 0.2 GiB. Cost: 13 GFLOP per step, 11 TFLOP in total: two to four minutes on two CPU cores.
Result: PSNR 20.1 dB and SSIM 0.94 for held-out digits, where bicubic enlargement has 13.1 dB and 0.58.
Source of the numbers: those of digits.py. The condition is that of Saharia et al. 2021 ("SR3"), noised up to a tenth of
the steps as in Ho et al. 2021, so that the model can also enlarge the samples of another one (docs/conditions.md).
"""

from ml_collections import ConfigDict

from ddpm_jax.config import apply_variant, defaults


def get_config(variant: str = "") -> ConfigDict:
    config = defaults()
    config.data.source = "digits"
    config.data.image_size = 8
    config.data.channels = 1
    config.data.holdout = 0.1
    config.model.condition = "low_resolution"
    config.degradation.factor = 2
    config.degradation.noise = 100

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
