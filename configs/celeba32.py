"""CelebA faces at 32x32: a size for trying ideas, with four attention heads and a cosine learning rate.

Memory: about 13 GiB at batch 128 in float32 (0.5 state, 12 activations, by count). Cost: 4.5 TFLOP per step, 0.9 EFLOP
in total. Result: small but varied faces from about 50,000 steps on.
Source of the numbers: the cifar10 recipe with a quarter of its steps, and four heads from Nichol & Dhariwal 2021.
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
    config.data.image_size = 32
    config.data.flip = True
    config.model.heads = 4
    config.model.dropout = 0.1
    config.optimizer.warmup = 5000
    config.optimizer.schedule = "cosine"
    config.train.steps = 200_000
    return apply_variant(config, variant)
