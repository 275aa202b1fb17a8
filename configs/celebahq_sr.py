"""Super-resolution of CelebA-HQ faces from 64x64 to 256x256, alone or as the second stage of a cascade.

Memory: as celebahq256, about 26 GiB at batch 64 in bfloat16 with rematerialisation, divided by the number of devices or
by --config.train.accumulate. Cost: 95 TFLOP per step, 24 EFLOP in total, and a third more for rematerialisation.
Result: not measured here yet.
Source of the numbers: the architecture, batch and EMA of Ho et al. 2020 for 256x256; the condition and its factor are
those of Saharia et al. 2021 ("SR3"), its noise follows Ho et al. 2021 (cascades); v-prediction, the cosine schedule and
the learning rate are chosen here.
Images: a folder or zip in --config.data.path. The first stage of a cascade is a run on the same images with
--config.data.image_size=64 --config.data.resize=bicubic (docs/conditions.md).
"""

from ml_collections import ConfigDict

from ddpm_jax.config import apply_variant, defaults


def get_config(variant: str = "") -> ConfigDict:
    config = defaults()
    config.data.image_size = 256
    config.data.batch_size = 64
    config.data.flip = True
    config.model.condition = "low_resolution"
    config.degradation.factor = 4
    config.degradation.noise = 200

    config.model.multipliers = (1, 1, 2, 2, 4, 4)
    config.model.dtype = "bfloat16"
    config.model.remat = True

    config.diffusion.schedule = "cosine"
    config.diffusion.prediction = "v"

    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup = 5000

    config.train.steps = 250_000
    config.checkpoint.keep_every = 50_000
    return apply_variant(config, variant)
