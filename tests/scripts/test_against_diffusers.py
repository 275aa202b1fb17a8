"""scripts/benchmark.py against diffusers."""

import json

from tests.end_to_end.commands import ROOT
from tests.peers import peer
from tests.scripts.processes import run_script

peer("diffusers")


def test_training_is_timed_in_alternation_with_the_same_weights():
    config = f"--config={ROOT}/configs/digits.py:smoke"
    done = run_script(
        "benchmark.py", "train", config, "--batch=2", "--rounds=2", "--peer=diffusers", "--variants=eager", "--json"
    )
    facts = json.loads(done.stdout)
    assert facts["peer"]["variant"] == "eager" and facts["peer"]["name"].startswith("diffusers")
    ours, theirs = (facts[side]["peak_memory_mebibytes"] for side in ("ours", "peer"))
    assert min(ours, theirs) > 100 and facts["memory_ratio"] == ours / theirs
    assert facts["ratio"] == facts["ours"]["images_per_second"] / facts["peer"]["images_per_second"] > 0
