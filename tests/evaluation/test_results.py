from itertools import product

from ddpm_jax.evaluation.results import Row, curves_that_compare


def result_of(fid: float, **drawn) -> dict:
    protocol = {
        "distance": "FID",
        "real": {"from": "a.npz", "images": 9, "identity": "0"},
        "neighbours": drawn.pop("k"),
    }
    return {"fid": fid, "protocol": {**protocol, "drawn": {"images": 5, "training_step": 1, **drawn}}}


def test_charts_part_what_does_not_compare_and_drop_nothing():
    rows = [
        Row(1, f"ddim-{steps}steps-seed0-n{images}-0", result_of(float(fid), steps=steps, images=images, k=k))
        for fid, (images, k, steps) in enumerate(product((5, 6), (10, 20), (2, 4)))
    ]
    charts = curves_that_compare(rows, "steps")
    assert [title.split(" against ")[0] for title in charts] == ["FID of 5 images", "FID of 6 images"]
    for curves in charts.values():
        assert len(curves) == 2 and all([x for x, _ in points] == [2, 4] for points in curves.values())
    assert sorted(y for curves in charts.values() for points in curves.values() for _, y in points) == list(range(8))
    assert curves_that_compare(rows, "training_step") == {}
