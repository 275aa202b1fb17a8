"""CIFAR-10 at 32x32, as in Ho et al. 2020: 35,746,307 parameters.

Memory: about 12 GiB at batch 128 in float32 (0.5 state, 11 activations, by count); less with
--config.model.dtype=bfloat16. Cost: 4.5 TFLOP per step, 3.6 EFLOP in total.
Result in the paper: FID 3.17 with 1,000 DDPM steps, against the training set (not measured here yet).
Source of the numbers: Ho et al. 2020, appendix B, and their code: base 128, 1-2-2-2, two blocks, attention at 16,
dropout 0.1, Adam 2e-4 after 5,000 warmup steps, clip 1, EMA 0.9999, flips, batch 128, 800,000 steps.
Images: from TensorFlow Datasets (docs/data.md), or a folder, zip or .npz in --config.data.path.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import apply_variant, defaults


def get_config(variant: str = "") -> ConfigDict:
    config = defaults()
    config.data.name = "cifar10"
    config.data.image_size = 32
    config.data.flip = True
    config.model.dropout = 0.1
    config.optimizer.warmup = 5000
    config.train.steps = 800_000
    config.checkpoint.keep_every = 100_000
    return apply_variant(config, variant)
