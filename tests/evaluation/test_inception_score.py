import numpy as np
import pytest

from ddpm_jax.evaluation.inception_score import SPLITS, ScoreSums, random_parts


def test_the_inception_score_is_the_definition(draw):
    logits = draw.normal(size=(95, 7)) * 3
    parts = random_parts(95)
    assert np.bincount(parts).tolist() == [10, 9] * 5 or sorted(np.bincount(parts).tolist()) == [9] * 5 + [10] * 5
    sums = ScoreSums(parts)
    for start in range(0, 95, 8):
        sums.add(logits[start : start + 8])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = []
    for part in range(SPLITS):
        q = p[parts == part]
        scores.append(np.exp((q * np.log(q / q.mean(axis=0))).sum(axis=1).mean()))
    assert sums.score() == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-10)


def test_the_inception_score_of_certain_classes_is_their_number():
    logits = np.where(np.arange(100)[:, None] % 5 == np.arange(5), 50.0, 0.0)
    sums = ScoreSums(np.arange(100) // 10)
    sums.add(logits)
    assert sums.score() == pytest.approx((5.0, 0.0), abs=1e-9)
