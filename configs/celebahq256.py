"""CelebA-HQ faces at 256x256, as in Ho et al. 2020: 113,673,219 parameters.

Memory: about 26 GiB at batch 64 in bfloat16 with rematerialisation (1.7 state, 24 activations, by count), divided by
the number of devices or by --config.train.accumulate. Cost: 95 TFLOP per step, 47 EFLOP in total, and a third more for
rematerialisation. Result in the paper: samples without an FID.
Source of the numbers: Ho et al. 2020, appendix B: base 128, 1-1-2-2-4-4, two blocks, attention at 16, no dropout, Adam
2e-5, EMA 0.9999, batch 64, 500,000 steps.
Images: a folder or zip in --config.data.path.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import apply_variant, defaults


def get_config(variant: str = "") -> ConfigDict:
    config = defaults()
    config.data.image_size = 256
    config.data.batch_size = 64
    config.data.flip = True
    config.model.multipliers = (1, 1, 2, 2, 4, 4)
    config.model.dtype = "bfloat16"
    config.model.remat = True
    config.optimizer.learning_rate = 2e-5
    config.optimizer.warmup = 5000
    config.train.steps = 500_000
    config.checkpoint.keep_every = 100_000
    return apply_variant(config, variant)
