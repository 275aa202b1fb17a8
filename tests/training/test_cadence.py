from ddpm_jax.training.cadence import due, due_or_last


def test_work_is_due_early_then_periodically_and_at_the_end():
    assert [step for step in range(1, 2601) if due(step, 1000, 2600)] == [100, 1000, 2000, 2600]
    assert [step for step in range(1, 11) if due(step, 4, 10)] == [4, 8, 10]
    assert [step for step in range(1, 2601) if due_or_last(step, 1000, 2600)] == [1000, 2000, 2600]
    assert not any(due(step, 0, 10) or due_or_last(step, 0, 10) for step in range(1, 11))
