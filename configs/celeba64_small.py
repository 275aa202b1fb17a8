"""CelebA faces at 64x64 on one 8 GB GPU: the network of celeba64 in bfloat16, with eight microbatches per step.

Memory: about 6 GiB (1.2 state, 0.6 gradients, 3.6 activations of 16 images, by count). Cost: as celeba64, 18 TFLOP
per step, 8.9 EFLOP in total. Result: as celeba64, since the batch size is the same.
To save more memory: --config.train.accumulate=16, --config.model.remat=True, or --config.model.channels=96.
Source of the numbers: celeba64.
Images: --config.data.path is the folder with img_align_celeba.zip and its lists (docs/data.md describes other ways);
the crop is the one of the published FIDs, 128x128 pixels around x=89, y=121.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import apply_variant, defaults


def get_config(variant: str = "") -> ConfigDict:
    config = defaults()
    config.data.name = "celeb_a"
    config.data.crop = (25, 57, 153, 185)
    config.data.resize = "bilinear"
    config.data.image_size = 64
    config.data.flip = True
    config.model.multipliers = (1, 2, 2, 2, 4)
    config.model.dropout = 0.1
    config.model.dtype = "bfloat16"
    config.optimizer.warmup = 5000
    config.train.steps = 500_000
    config.train.accumulate = 8
    config.checkpoint.keep_every = 100_000
    return apply_variant(config, variant)
