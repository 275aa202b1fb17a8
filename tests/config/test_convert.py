"""A Config survives the conversion to JSON and ConfigDict and back; unknown fields and formats are refused."""

import dataclasses
import json

import pytest

from ddpm_jax.config import (
    Config,
    changes,
    config_of,
    defaults,
    differences,
    flatten,
    from_json,
    split_names,
    to_config_dict,
    to_json,
    to_tree,
    without_folders,
)
from ddpm_jax.config.convert import section_of
from ddpm_jax.config.field_types import field_types
from ddpm_jax.errors import UserError
from tests.config.test_checks import changed


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"modle": {}}, "modle is not a field of the configuration; did you mean model?"),
        ({"model": {"chanels": 64}}, "model.chanels is not a field of the configuration; did you mean channels"),
        ({"model": 3}, "model is 3; expected a table of fields"),
        ([1, 2], "expected a table of fields"),
    ],
)
def test_unknown_fields_are_refused_with_a_hint(tree, words):
    with pytest.raises(UserError) as caught:
        config_of(tree)
    assert words in str(caught.value)


def test_json_and_config_dict_round_trip_every_field():
    config = config_of(changed(**{"seed": 7, "model.multipliers": [1, 3], "sample.steps": 20, "optimizer.clip": 2}))
    assert config.model.multipliers == (1, 3) and config.optimizer.clip == 2.0
    assert from_json(to_json(config), "config.json") == config
    assert config_of(to_config_dict(config)) == config
    assert config_of(defaults()) == Config()


def test_plan_options_saved_by_older_versions_are_ignored():
    old = dataclasses.asdict(Config()) | {"plan": {"devices": 8, "price": None}}
    assert from_json(json.dumps(old), "config.json") == Config()
    with pytest.raises(UserError, match="plan is not a field of the configuration"):
        config_of(old)


def test_runs_with_the_old_coding_of_attributes_are_refused_and_those_of_classes_are_read():
    attributes, classes = (config_of(changed(**{f"model.{kind}": 3})) for kind in ("attributes", "classes"))
    assert from_json(to_json(attributes), "config.json") == attributes
    old = json.dumps(dataclasses.asdict(attributes))
    with pytest.raises(UserError, match=r"runs/x/config.json is of a model that was .* coded as 1/0, .*; train again"):
        from_json(old, "runs/x/config.json")
    assert from_json(json.dumps(dataclasses.asdict(classes)), "config.json") == classes


@pytest.mark.parametrize("version", [3, 0, "2", None, True])
def test_unknown_formats_are_refused(version):
    with pytest.raises(UserError, match=f"config.json has format {version!r}; expected 1 to 2"):
        from_json(json.dumps(to_tree(Config()) | {"format": version}), "config.json")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", '{"seed": "x"}'])
def test_the_error_for_damaged_json_names_the_file(text):
    with pytest.raises(UserError, match="config.json"):
        from_json(text, "config.json")


def test_optional_fields_are_typed_placeholders():
    config = defaults()
    config.sample.steps = 20
    with pytest.raises(TypeError):
        config.sample.steps = "twenty"


def test_only_fields_that_change_the_result_are_differences():
    old, new = Config(), config_of(changed(**{"train.steps": 5, "log.every": 7, "model.channels": 64}))
    assert changes(old, new) == {"train.steps": (100_000, 5), "log.every": (100, 7), "model.channels": (128, 64)}
    assert differences(old, new) == {"model.channels": (128, 64)}


TEXTS_WITHOUT_PLACES = {
    *("data.name", "data.split", "data.label_column", "data.filter", "data.classes", "data.attributes"),
    *("sample.label", "evaluate.samplers", "evaluate.condition_split", "log.preview_samplers"),
}


def test_what_is_published_tells_no_folders_of_this_machine():
    texts = [name for name, kind in field_types(Config).items() if kind == str | None]
    secret = section_of(Config, changed(**dict.fromkeys(texts, "/home/alice/secret/x.png,/home/alice/y")))
    told = flatten(without_folders(secret))
    assert {name for name in texts if "alice" in str(told[name])} == TEXTS_WITHOUT_PLACES
    assert told["data.path"] == "y" and told["data.cache"] is None
    assert without_folders(Config()) == Config()
    kept = section_of(Config, changed(**{"sample.guide": "checkpoint:5", "train.start_from": "pretrained:digits"}))
    assert without_folders(kept) == kept


def test_types_and_values_are_listed_under_the_same_dotted_names():
    assert list(field_types(Config)) == list(flatten(Config())) and len(flatten(Config())) > 70


def test_names_are_split_at_commas_and_none_may_be_empty():
    assert split_names("ddim:20, ddpm", "sample.compare") == ["ddim:20", "ddpm"]
    with pytest.raises(UserError, match="sample.compare='ddim,' holds an empty name"):
        split_names("ddim,", "sample.compare")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("New York, NY", ["New York, NY"]),
        ("New York, NY,Boston", ["New York, NY", "Boston"]),
        ("Boston, New York, NY", ["Boston", "New York, NY"]),
        ("New York,Boston", ["New York", "Boston"]),
        ("a,b", ["a,b"]),
        ("b, a", ["b", "a"]),
    ],
)
def test_a_name_with_commas_is_one_name(text, names):
    known = {"New York, NY", "Boston", "New York", "a", "b", "a,b"}
    assert split_names(text, "data.classes", known.__contains__) == names
