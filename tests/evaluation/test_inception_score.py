import numpy as np
import pytest

from ddpm_jax.evaluation.inception_score import SPLITS, ScoreSums, random_splits


def test_the_inception_score_equals_its_definition(draw):
    logits = draw.normal(size=(95, 7)) * 3
    splits = random_splits(95)
    assert sorted(np.bincount(splits).tolist()) == [9] * 5 + [10] * 5
    sums = ScoreSums(splits)
    for start in range(0, 95, 8):
        sums.add(logits[start : start + 8])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = []
    for split in range(SPLITS):
        q = p[splits == split]
        scores.append(np.exp((q * np.log(q / q.mean(axis=0))).sum(axis=1).mean()))
    assert sums.score() == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-10)


def test_the_inception_score_of_certain_classes_is_their_number():
    logits = np.where(np.arange(100)[:, None] % 5 == np.arange(5), 50.0, 0.0)
    sums = ScoreSums(np.arange(100) // 10)
    sums.add(logits)
    assert sums.score() == pytest.approx((5.0, 0.0), abs=1e-9)


def test_without_logits_there_is_no_score():
    assert ScoreSums(np.zeros(3, int)).score() is None
