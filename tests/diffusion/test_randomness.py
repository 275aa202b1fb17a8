import jax
import numpy as np

from ddpm_jax.diffusion.randomness import Purpose, purpose_key
from ddpm_jax.sampling.noise import image_keys

COUNT = 300


def test_no_two_purposes_share_a_key():
    """Also not the keys folded from them by step or image index, nor those folded from these again."""
    numbers, fold = np.arange(COUNT), jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = []
    for seed in (0, 1):
        for purpose in Purpose:
            of_images = image_keys(seed, numbers, purpose)
            keys += [purpose_key(seed, purpose)[None], of_images, *(fold(key, numbers) for key in of_images[:5])]
    data = np.concatenate([np.asarray(jax.random.key_data(each)) for each in keys])
    assert len(np.unique(data, axis=0)) == len(data) == 2 * len(Purpose) * (1 + 6 * COUNT)
