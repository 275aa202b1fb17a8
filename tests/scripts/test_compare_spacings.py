"""scripts/compare_spacings.py, whose table docs/sampling.md shows."""

import json

import pytest

from ddpm_jax import UserError
from scripts import compare_spacings


def run(monkeypatch, capsys, *flags):
    monkeypatch.setattr("sys.argv", ["compare_spacings.py", *flags])
    compare_spacings.main()
    return capsys.readouterr().out


def test_steps_that_begin_far_from_T_cost_the_class_and_the_default_does_not(monkeypatch, capsys):
    flags = ("--total=60", "--steps=31", "--samplers=ddim", "--spacings=leading,trailing", "--images=60", "--json")
    leading, trailing = json.loads(run(monkeypatch, capsys, *flags))["rows"]
    assert (leading["spacing"], leading["first"], trailing["spacing"], trailing["first"]) == (
        "leading",
        31,
        "trailing",
        60,
    )
    assert leading["signal"] > 0.5 and trailing["signal"] < 0.01
    assert leading["agreement"] < 0.8 < 0.9 < trailing["agreement"] and trailing["distance"] < leading["distance"]


@pytest.mark.parametrize("flag", ["--spacings=leeding", "--samplers=dddm", "--steps=0", "--images=1"])
def test_mistakes_are_reported(monkeypatch, capsys, flag):
    with pytest.raises(UserError, match="expected some of|must be 1 or more"):
        run(monkeypatch, capsys, flag)
