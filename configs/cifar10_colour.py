"""Colours for grey 32x32 images, learned from CIFAR-10.

Memory: about 6 GiB at batch 128 (0.1 state, 6 activations, by count). Cost: 1.2 TFLOP per step, 120 PFLOP in total.
Result: plausible colours at width 32 after an hour on two CPU cores, measured in docs/conditions.md.
Source of the numbers: the architecture of Ho et al. 2020 at half width; the condition is that of Saharia et al. 2022
("Palette"); the schedule, the prediction and the length are chosen here.
Images: from TensorFlow Datasets (docs/data.md), or a folder, zip or .npz in --config.data.path.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import apply_variant, defaults


def get_config(variant: str = "") -> ConfigDict:
    config = defaults()
    config.data.name = "cifar10"
    config.data.image_size = 32
    config.data.flip = True
    config.model.condition = "grey"

    config.model.channels = 64
    config.model.dropout = 0.1

    config.diffusion.schedule = "cosine"
    config.diffusion.prediction = "v"

    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup = 500
    config.optimizer.schedule = "cosine"
    config.optimizer.ema_decay = 0.999

    config.train.steps = 100_000
    return apply_variant(config, variant)
