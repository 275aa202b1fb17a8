from pathlib import Path

import jax
import pytest

from ddpm_jax.builders import build_unet
from ddpm_jax.config import config_of, load_recipe
from ddpm_jax.errors import UserError
from ddpm_jax.network.unet import init_params

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
PUBLISHED = {"cifar10": 35746307, "celeba64": 78700803, "celeba64_small": 78700803, "celebahq256": 113673219}


def test_all_recipes_are_there():
    expected = "celeba32 celeba64 celeba64_small celebahq128 celebahq256 cifar10 digits fashion_mnist folder mnist"
    assert " ".join(path.stem for path in RECIPES) == expected


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("variant", ["", ":smoke"])
def test_each_recipe_is_valid_and_documented(path, variant):
    config_of(load_recipe(f"{path}{variant}"))
    text = path.read_text()
    assert all(word in text for word in ("Memory:", "Cost:", "Result", "Source of the numbers:"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_of_papers_have_their_parameter_counts(name):
    config = config_of(load_recipe(str(RECIPES[0].with_name(f"{name}.py"))))
    size, channels = config.data.image_size, config.data.channels
    shapes = jax.eval_shape(lambda: init_params(build_unet(config), jax.random.key(0), size, channels))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PUBLISHED[name]


def test_own_variants_and_unknown_ones():
    folder = RECIPES[0].parent
    attention = config_of(load_recipe(f"{folder}/celebahq128.py:attention"))
    assert attention.model.attention_resolutions == (64, 32, 16)
    assert config_of(load_recipe(f"{folder}/folder.py:256")).data.image_size == 256
    with pytest.raises(UserError, match="no variant 'smok'; did you mean smoke"):
        load_recipe(f"{folder}/digits.py:smok")
