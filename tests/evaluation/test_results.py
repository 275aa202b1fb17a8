import dataclasses
from itertools import product

import pytest

from ddpm_jax.config.sections import Config
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.results import (
    Row,
    add_result,
    all_results,
    comparable_curves,
    read_results,
    result_name,
    table,
)
from ddpm_jax.generation.requests import sample_name
from tests.end_to_end.commands import scalars


def result_of(fid: float, **drawn) -> dict:
    protocol = {
        "distance": "FID",
        "real": {"from": "a.npz", "images": 9, "identity": "0"},
        "neighbours": drawn.pop("k"),
    }
    return {"fid": fid, "protocol": {**protocol, "drawn": {"images": 5, "training_step": 1, **drawn}}}


def test_charts_separate_incomparable_metrics_and_drop_none():
    rows = [
        Row(1, f"ddim-{steps}steps-seed0-n{images}-0", result_of(float(fid), steps=steps, images=images, k=k))
        for fid, (images, k, steps) in enumerate(product((5, 6), (10, 20), (2, 4)))
    ]
    charts = comparable_curves(rows, "steps")
    assert [title.split(" against ")[0] for title in charts] == ["FID of 5 images", "FID of 6 images"]
    for curves in charts.values():
        assert len(curves) == 2 and all([x for x, _ in points] == [2, 4] for points in curves.values())
    assert sorted(y for curves in charts.values() for points in curves.values() for _, y in points) == list(range(8))
    assert comparable_curves(rows, "training_step") == {}


def test_a_chart_of_ema_widths_has_a_curve_for_each_sampler_and_step_and_leaves_out_other_emas():
    rows = [
        Row(step, f"{sampler}-2steps-seed0-n5-ema_width-{width}-0", result_of(width, k=10, **drawn))
        for step, sampler, width in product((1, 2), ("ddim", "ddpm"), (0.05, 0.1))
        for drawn in [{"steps": 2, "sampler": sampler, "ema_width": width, "parameters_crc32": width}]
    ]
    rows = [row._replace(result=with_step(row.result, row.step)) for row in rows]
    plain = Row(1, "ddim-2steps-seed0-n5-0", result_of(3.0, steps=2, k=10))
    (curves,) = comparable_curves([*rows, plain], "ema_width").values()
    assert curves == {
        f"{sampler}-2steps-seed0, step {step}": [(0.05, 0.05), (0.1, 0.1)]
        for step, sampler in product((1, 2), ("ddim", "ddpm"))
    }
    (by_step,) = comparable_curves([*rows, plain], "training_step").values()
    assert len(by_step) == 4 and "ddim-2steps-seed0-ema_width-0.05" in by_step


@pytest.mark.parametrize("guide", ["checkpoint:1", "ema_width:0.07"])
def test_results_with_a_guide_of_the_same_run_are_points_of_one_curve(guide, tmp_path):
    """Its name has a checksum of the step and the width, and another EMA as the guide changes with the step."""
    settings, rows = Config(), []
    for step, width in product((1, 2), (0.05, 0.1)):
        sample = dataclasses.replace(settings.sample, guide=guide, guidance=2.0, ema_width=width)
        name = sample_name(dataclasses.replace(settings, sample=sample), step, 5).partition("-")[2]
        own = {"from": guide, "training_step": 1, "parameters_crc32": 7}
        if guide.startswith("ema_width"):
            own |= {"training_step": step, "parameters_crc32": step}
        drawn = {"training_step": step, "ema_width": width, "parameters_crc32": (step, width), "guide": own}
        result = result_of(width, k=10, **drawn)
        add_result(tmp_path, step, name, result)
        rows.append(Row(step, result_name(name, result["protocol"]), result))
    (by_width,) = comparable_curves(rows, "ema_width").values()
    (by_step,) = comparable_curves(rows, "training_step").values()
    assert [[x for x, _ in points] for points in by_width.values()] == [[0.05, 0.1]] * 2
    assert [[x for x, _ in points] for points in by_step.values()] == [[1, 2]] * 2
    curves = list((tmp_path / "tensorboard").iterdir())
    tags = [f"evaluation-{curve.name.rpartition('-')[0]}/FID" for curve in curves]
    assert [list(scalars(curve, tag)) for curve, tag in zip(curves, tags, strict=True)] == [[1, 2]] * 2


def with_step(result: dict, step: int) -> dict:
    result["protocol"]["drawn"]["training_step"] = step
    return result


def test_charts_separate_results_for_other_conditions_and_the_table_names_them():
    rows = []
    for split, steps in product(("held out", "test"), (2, 4)):
        result = result_of(1.0, steps=steps, k=10)
        result["protocol"]["condition"] = {"originals": split, "originals_crc32": 17}
        rows.append(Row(1, f"ddim-{steps}steps-seed0-n5-0", result))
    titles = [title.rpartition(", ")[2] for title in comparable_curves(rows, "steps")]
    assert titles == ["conditions: held out [00000011]", "conditions: test [00000011]"]
    lines = table(rows).splitlines()
    assert "conditions" in lines[0] and " test " in lines[-1] and " test " not in lines[1]


def test_a_result_is_read_as_added_and_another_protocol_stands_beside_it(tmp_path):
    results = [result_of(float(seed), steps=2, k=10, seed=seed) for seed in (1, 2)]
    for result in results:
        add_result(tmp_path, 7, "ddim", result)
    add_result(tmp_path, 7, "ddim", results[0])
    names = [result_name("ddim", result["protocol"]) for result in results]
    assert read_results(tmp_path, 7) == dict(zip(names, results, strict=True))
    lines = table(all_results(tmp_path)).splitlines()
    assert lines[0].split() == ["step", "result", "reference", "distance", "value"]
    assert [line.split()[4] for line in lines[1:]] == ["1", "2"]


def test_damaged_results_are_refused_and_skipped_in_lists(tmp_path, package_log):
    add_result(tmp_path, 8, "ddim", result_of(1.0, steps=2, k=10))
    for text in ("{", "[]", '{"a": {}}'):
        (tmp_path / "7.json").write_text(text)
        with pytest.raises(UserError, match="move it away to measure again"):
            read_results(tmp_path, 7)
    assert [row.step for row in all_results(tmp_path)] == [8] and "7.json" in package_log.text
