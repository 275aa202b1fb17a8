from pathlib import Path

import jax
import pytest

from ddpm_jax.builders import param_shapes
from ddpm_jax.config import (
    check_overrides,
    config_of,
    defaults,
    from_json,
    load_recipe,
    override,
    parse_section,
    to_config_dict,
    to_json,
)
from ddpm_jax.config.sections import Sample
from ddpm_jax.errors import UserError

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
PUBLISHED = {"cifar10": 35746307, "celeba64": 78700803, "celeba64_small": 78700803, "celebahq256": 113673219}


def test_the_recipes_are_these():
    faces = "celeba32 celeba64 celeba64_small celebahq128 celebahq256 celebahq_sr"
    others = "cifar10 cifar10_colour digits digits_sr fashion_mnist folder mnist small_folder"
    assert " ".join(path.stem for path in RECIPES) == f"{faces} {others}"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("variant", ["", ":smoke"])
def test_each_recipe_is_valid_and_documented(path, variant):
    config_of(load_recipe(f"{path}{variant}"))
    text = path.read_text()
    assert all(word in text for word in ("Memory:", "Cost:", "Result", "Source of the numbers:"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_from_papers_have_the_published_number_of_parameters(name):
    config = config_of(load_recipe(str(RECIPES[0].with_name(f"{name}.py"))))
    assert sum(leaf.size for leaf in jax.tree.leaves(param_shapes(config))) == PUBLISHED[name]


def test_augmentation_adds_one_layer_to_a_network_and_nothing_to_one_without():
    recipe = load_recipe(str(RECIPES[0].with_name("small_folder.py")))
    shapes = [
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(param_shapes(config))}
        for config in (config_of(recipe), config_of(override(recipe, ["--config.data.augment=0"])))
    ]
    assert dict(shapes[0].items() - shapes[1].items()) == {"['augmentation']['kernel']": (9, 4 * 32)}
    assert shapes[1].items() < shapes[0].items()


def test_recipes_have_their_own_variants_and_refuse_unknown_ones():
    folder = RECIPES[0].parent
    attention = config_of(load_recipe(f"{folder}/celebahq128.py:attention"))
    assert attention.model.attention_resolutions == (64, 32, 16)
    assert config_of(load_recipe(f"{folder}/folder.py:256")).data.image_size == 256
    with pytest.raises(UserError, match="no variant 'smok'; did you mean smoke"):
        load_recipe(f"{folder}/digits.py:smok")


def test_flags_set_fields_of_every_type_and_empty_ones_remove_values():
    recipe = defaults()
    recipe.data.filter = "A"
    flags = [
        "data.filter=",
        "data.flip=True",
        "model.multipliers=(1,4)",
        "sample.steps=7",
        "model.attention_resolutions=",
        "data.image_size=(24,32)",
    ]
    config = config_of(override(recipe, [f"--config.{flag}" for flag in flags]))
    assert (config.data.filter, config.data.flip, config.model.multipliers) == (None, True, (1, 4))
    assert (config.sample.steps, config.model.attention_resolutions) == (7, ())
    assert config.image_shape == (24, 32, 3) and from_json(to_json(config), "config.json") == config
    assert config_of(override(to_config_dict(config), ["--config.data.image_size=64"])).image_shape == (64, 64, 3)


def test_equal_images_have_equal_fields():
    """Runs and caches are compared by them."""
    flags = ["--config.data.image_size=(64,64)", "--config.data.value_range=(0,1)"]
    data = config_of(override(defaults(), flags)).data
    assert data.image_size == 64 and [repr(bound) for bound in data.value_range] == ["0.0", "1.0"]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.model.chanels=3", r"--config.model.chanels is not a field .* did you mean model.channels or"),
        ("--config.sample.steps=many", "sample.steps='many' has the wrong type; expected a whole number"),
    ],
)
def test_unknown_fields_and_values_of_another_type_are_refused(flag, words):
    with pytest.raises(UserError, match=words):
        override(defaults(), [flag])


def test_sections_of_their_own_are_parsed_and_checked():
    assert parse_section("sample", Sample(), ["--sample.eta=0.5"]).eta == 0.5
    with pytest.raises(UserError, match="sample.eta=2.0 is out of range; expected 0 to 1"):
        parse_section("sample", Sample(), ["--sample.eta=2.0"])


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("--model.channels=3", r"did you mean --config.model.channels=3\?"),
        ("--jsn", r"did you mean json\?"),
        ("photos", "write --name=value"),
    ],
)
def test_other_arguments_are_refused_with_a_hint(argument, hint):
    check_overrides(["--config.seed=1", "--noconfig.data.flip"], ["json"])
    with pytest.raises(UserError, match=hint):
        check_overrides([argument], ["json"])
