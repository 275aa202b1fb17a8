"""The steps at which periodic work of training is due."""

EARLY = 100
"""The latest step for the first checkpoint and the first preview."""


def due(step: int, every: int, last: int) -> bool:
    """Whether work that is done every `every` steps (0: never) is due now; it is also due early on, and at the end."""
    return every > 0 and (step % every == 0 or step == last or step == min(every, EARLY))
