"""CelebA faces at 64x64, as in the DDIM paper: 78,700,803 parameters.

Memory: about 42 GiB at batch 128 in float32 (1.2 state, 40 activations, by count); on one GPU add
--config.model.dtype=bfloat16 or --config.train.accumulate=4, or use celeba64_small. Cost: 18 TFLOP per step, 8.9 EFLOP.
Result in the paper: FID 3.26 with DDPM's 1,000 steps, 9.17 with 50 DDIM steps (not measured here yet).
Source of the numbers: Song et al. 2020 and their repository's celeba.yml: base 128, 1-2-2-2-4, two blocks, attention
at 16, dropout 0.1, Adam 2e-4, EMA 0.9999, batch 128, 500,000 steps; warmup as in Ho et al. 2020.
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
    config.optimizer.warmup = 5000
    config.train.steps = 500_000
    config.checkpoint.keep_every = 100_000
    return apply_variant(config, variant)
