"""Curves, read back from TensorBoard's event files."""

from pathlib import Path


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The points (step, value) of each scalar in a folder, by its tag; without those that a resumed run replaced."""
    # Importing it is slow.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()  # 0: all, not a sample of 10,000.
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
