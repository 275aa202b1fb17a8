"""Where figures and pictures go while training: TensorBoard, and Weights & Biases if asked, through the same calls."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

from ddpm_jax.errors import UserError
from ddpm_jax.reporting.images import Picture

GROUPS = {
    "optimizer": ("gradient_norm", "learning_rate", "skipped_steps"),
    "speed": ("images_per_second", "data_wait_share", "share_of_peak"),
    "memory": ("device_memory_mebibytes", "host_memory_mebibytes"),
}
"""What stands together in TensorBoard, of the figures of training; the rest under "train"."""
JUDGED_BY = ("validation/loss_ema", "train/loss", "evaluation/fid")
"""Curves that tell how good a run is."""
QUALITY = ("train", "validation", "evaluation")
"""Groups that tell of the model, rather than of the machine or of the optimizer."""
CHARTS = {
    "Loss": {
        "training and validation": ["Multiline", ["^train/loss$", "^validation/.*"]],
        "by quarter of the steps t": ["Multiline", ["^train/loss_t_.*"]],
    }
}
"""TensorBoard's page of custom scalars: curves that belong in one chart."""


def tag(name: str) -> str:
    """The name of a figure of training with its group, such as speed/images_per_second."""
    return f"{next((group for group, names in GROUPS.items() if name in names), 'train')}/{name}"


@runtime_checkable
class Writer(Protocol):
    """What a place for reports can take; steps are training steps."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...
    def picture(self, step: int, name: str, picture: Picture) -> None: ...
    def text(self, name: str, text: str) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in a folder; what an earlier, interrupted run wrote after step `start` is hidden (None: nothing is).

    Written at once, not through SummaryWriter's thread: its flush leaves queued points behind, which a killed process
    loses, and on a full disk the thread dies and the next call waits forever.
    """

    def __init__(self, folder: Path, start: int | None, hyperparameters: Mapping[str, Any] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._events = EventsWriter(str(folder / "events"), f".{start or 0}")
        first = 0 if start is None else start + 1
        self._events.write_event(Event(wall_time=time.time(), step=first, file_version="brain.Event:2"))
        if start is not None:
            session = SessionLog(status=SessionLog.START)
            self._events.write_event(Event(wall_time=time.time(), step=first, session_log=session))
            self._write(0, summary.custom_scalars(CHARTS))
        if hyperparameters:
            experiment, values, _ = summary.hparams(dict(hyperparameters), dict.fromkeys(JUDGED_BY))
            self._write(0, experiment)
            self._write(0, values)

    def _write(self, step: int, record: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, summary=record))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._write(step, summary.scalar(name, value))
        self.flush()

    def picture(self, step: int, name: str, picture: Picture) -> None:
        self._write(step, summary.image(name, picture, dataformats="HWC"))
        self.flush()

    def text(self, name: str, text: str) -> None:
        self._write(0, summary.text(name, text))
        self.flush()

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._events.close()


class ByImagesSeen:
    """The curves of quality over the images that were seen, where runs of unlike batches can be compared."""

    def __init__(self, writer: Writer, batch_size: int) -> None:
        self._writer, self._batch_size = writer, batch_size

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        # In groups of their own, since a chart has one axis.
        parts = [(*name.split("/", 1), value) for name, value in values.items()]
        kept = {f"{group}_by_images_seen/{name}": value for group, name, value in parts if group in QUALITY}
        self._writer.scalars(step * self._batch_size, kept)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """Pictures are found by their step."""

    def text(self, name: str, text: str) -> None:
        """Texts have no place on the axis."""

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class BestSoFar:
    """Remembers the lowest point of each curve."""

    def __init__(self) -> None:
        self._points: dict[str, tuple[float, int]] = {}

    def of(self, names: Sequence[str]) -> dict[str, tuple[float, int]]:
        """The lowest value of some curves, as far as they were drawn, and its step."""
        return {name: self._points[name] for name in names if name in self._points}

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in ((name, value) for name, value in values.items() if math.isfinite(value)):
            self._points[name] = min(self._points.get(name, (value, step)), (value, step))

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """Pictures have no lowest point."""

    def text(self, name: str, text: str) -> None:
        """Nor have texts."""

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        """Nothing is open."""


class WeightsAndBiases:
    """A run on wandb.ai that continues under the same id when the training does."""

    def __init__(self, workdir: Path, project: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise UserError("log.wandb=True needs the wandb package: pip install -r requirements-wandb.txt") from error
        self._wandb = wandb
        name = workdir.name
        self._run = wandb.init(project=project, name=name, id=name, resume="allow", dir=workdir, config=dict(config))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        image = picture[..., 0] if picture.shape[-1] == 1 else picture
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def text(self, name: str, text: str) -> None:
        self._run.summary[name] = text

    def flush(self) -> None:
        """Nothing to do: W&B sends as it goes."""

    def close(self) -> None:
        self._run.finish()


class Writers:
    """Passes each report on to every place."""

    def __init__(self, places: list[Writer]) -> None:
        self._places = places

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for place in self._places:
            place.scalars(step, values)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        for place in self._places:
            place.picture(step, name, picture)

    def text(self, name: str, text: str) -> None:
        for place in self._places:
            place.text(name, text)

    def flush(self) -> None:
        for place in self._places:
            place.flush()

    def close(self) -> None:
        for place in self._places:
            place.close()
