"""When something that happens every so many steps is due."""

EARLY = 100
"""The first checkpoint and the first preview come at this step at the latest."""


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every so many steps (0: never) happens now: also early on, and at the end."""
    return every > 0 and (step % every == 0 or step == last or step == min(every, EARLY))
