"""The steps at which periodic work of training is due."""

EARLY = 100
"""The latest step for the first checkpoint and the first preview."""


def due(step: int, every: int, last: int) -> bool:
    """Whether work that is done every `every` steps (0: never) is due now; it is also due early on, and at the end."""
    return due_or_last(step, every, last) or (every > 0 and step == min(every, EARLY))


def due_or_last(step: int, every: int, last: int) -> bool:
    """Whether work that is done every `every` steps (0: never), and at the end, is due now."""
    return every > 0 and (step % every == 0 or step == last)
