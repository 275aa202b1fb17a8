"""Your own images: any folder or zip of image files, cropped to squares of 64 pixels.

    python main.py --config=configs/folder.py --config.data.path=photos/ --workdir=runs/mine

Memory: about 10 GiB at batch 64 in float32 (0.1 state, 10 activations, by count); half with
--config.model.dtype=bfloat16, a quarter with --config.train.accumulate=4. Cost: 2.2 TFLOP per step, 0.2 EFLOP in total.
Result: depends on the images; a few thousand of one kind and about 20,000 steps give a first impression.
Sizes of 16, 32, 64 or 128 pixels: --config.data.image_size=32. Other multiples of 8 also need
--config.model.attention_resolutions with sizes that occur. 256 pixels: --config=configs/folder.py:256.
Source of the numbers: Ho et al. 2020 at half width, with an EMA decay that suits small data sets.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import Recipe, apply_variant, defaults


def get_config(variant: str = "") -> ConfigDict:
    config = defaults()
    config.data.image_size = 64
    config.data.batch_size = 64
    config.data.flip = True
    config.model.channels = 64
    config.model.dropout = 0.1
    config.optimizer.warmup = 1000
    config.optimizer.ema_decay = 0.999
    config.train.steps = 100_000
    config.checkpoint.every = 2000
    config.log.preview_every = 2000
    return apply_variant(config, variant, {"256": large})


def large(config: Recipe) -> Recipe:
    config.data.image_size = 256
    config.data.batch_size = 16
    config.model.multipliers = (1, 1, 2, 2, 4)
    return config
