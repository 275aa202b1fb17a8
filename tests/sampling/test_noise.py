import jax
import numpy as np

from ddpm_jax.diffusion.randomness import Purpose, purpose_key
from ddpm_jax.sampling.noise import draw_noise, image_keys


def test_the_keys_of_images_differ_from_each_other_and_from_those_of_all_purposes():
    keys = [jax.random.key_data(purpose_key(0, purpose)) for purpose in Purpose]
    sampled = jax.random.key_data(image_keys(0, np.arange(300)))
    assert len(np.unique(np.concatenate([keys, sampled]), axis=0)) == len(Purpose) + 300


def test_noise_depends_only_on_seed_index_and_step():
    batch = draw_noise(image_keys(3, np.arange(8)), 5, (4, 4, 1))
    np.testing.assert_array_equal(draw_noise(image_keys(3, np.array([6])), 5, (4, 4, 1))[0], batch[6])
    others = [draw_noise(image_keys(seed, np.arange(8)), t, (4, 4, 1)) for seed, t in ((4, 5), (3, 0))]
    for noise in (*others, batch[::-1]):
        assert np.abs(noise - batch).max() > 0.1
