import pytest

from ddpm_jax.config import apply_variant, config_of, defaults
from ddpm_jax.errors import UserError


def test_a_recipe_may_add_its_own_variants():
    def wide(config):
        config.model.channels = 256
        return config

    assert apply_variant(defaults(), "wide", {"wide": wide}).model.channels == 256
    assert config_of(apply_variant(defaults(), "", {"wide": wide})) == config_of(defaults())
    with pytest.raises(UserError, match="no variant 'wid'; did you mean wide"):
        apply_variant(defaults(), "wid", {"wide": wide})


def test_the_smoke_variant_is_tiny_and_keeps_the_image_shape():
    smoke = config_of(apply_variant(defaults(), "smoke"))
    assert smoke.image_shape == config_of(defaults()).image_shape
    assert (smoke.train.steps, smoke.data.source, smoke.model.channels) == (3, "synthetic", 8)
