"""CelebA-HQ faces at 128x128: channel multipliers 1-2-3-4, bfloat16, a cosine learning rate.

Memory: about 57 GiB at batch 64 (1.3 state, 55 activations, by count), divided by the number of devices or by
--config.train.accumulate. Cost: 44 TFLOP per step, 13 EFLOP in total. Result: coherent faces at this size.
Attention after each downsampling, at 64, 32 and 16: --config=configs/celebahq128.py:attention (more memory).
Source of the numbers: multipliers and heads from the 128x128 models of Dhariwal & Nichol 2021; the rest chosen here.
Images: a folder or zip in --config.data.path.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import Recipe, apply_variant, defaults


def get_config(variant: str = "") -> ConfigDict:
    config = defaults()
    config.data.image_size = 128
    config.data.batch_size = 64
    config.data.flip = True
    config.model.multipliers = (1, 2, 3, 4)
    config.model.dtype = "bfloat16"
    config.model.heads = 4
    config.diffusion.schedule = "cosine"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup = 5000
    config.optimizer.schedule = "cosine"
    config.train.steps = 300_000
    config.checkpoint.keep_every = 100_000
    return apply_variant(config, variant, {"attention": attend_after_each_downsampling})


def attend_after_each_downsampling(config: Recipe) -> Recipe:
    config.model.attention_resolutions = (64, 32, 16)
    return config
