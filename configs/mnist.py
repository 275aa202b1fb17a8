"""MNIST at its original 28x28, greyscale, in three stages 28-14-7: an evening on a laptop, minutes on a GPU.

Memory: about 4 GiB at batch 128 (0.1 state, 3.9 activations, by count). Cost: 0.8 TFLOP per step, 16 PFLOP in total.
Result: clean digits from about 5,000 steps on. On CPU: --config.model.channels=32 --config.train.steps=3000.
Source of the numbers: chosen here; the architecture is that of Ho et al. 2020 at half width with three stages.
Images: from TensorFlow Datasets (docs/data.md), or a folder, zip or .npz in --config.data.path.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import apply_variant, defaults


def get_config(variant: str = "") -> ConfigDict:
    config = defaults()
    config.data.name = "mnist"
    config.data.image_size = 28
    config.data.channels = 1
    config.model.channels = 64
    config.model.multipliers = (1, 2, 2)
    config.model.attention_resolutions = (7,)
    config.model.dropout = 0.1
    config.diffusion.schedule = "cosine"
    config.diffusion.prediction = "v"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup = 200
    config.optimizer.schedule = "cosine"
    config.optimizer.ema_decay = 0.999
    config.train.steps = 20_000
    config.checkpoint.every = 2000
    config.log.validate_every = 1000
    config.log.preview_every = 1000
    return apply_variant(config, variant)
