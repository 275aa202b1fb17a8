import json

import pytest

from ddpm_jax import UserError, load_run
from tests.interop.toy import random_run


def test_a_run_of_attributes_records_its_format_and_is_refused_without_it(tmp_path):
    random_run(tmp_path / "run", names=["u", "v"], model={"attributes": 2})
    copies = [tmp_path / "run" / "config.json", tmp_path / "run" / "checkpoints" / "0" / "config" / "metadata"]
    trees = [json.loads(path.read_text()) for path in copies]
    assert trees[0] == trees[1] and trees[0]["format"] == 2
    assert load_run(tmp_path / "run").sample(1, label="v", steps=2).shape == (1, 8, 8, 1)
    del trees[0]["format"]
    copies[0].write_text(json.dumps(trees[0]))
    with pytest.raises(UserError, match=r"config.json is of a model that was trained with attributes coded as 1/0"):
        load_run(tmp_path / "run")
