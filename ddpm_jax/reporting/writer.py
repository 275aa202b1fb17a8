"""Destinations of metrics and images while training: TensorBoard and Weights & Biases, through the same interface."""

import logging
import math
import re
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

from ddpm_jax.errors import UserError
from ddpm_jax.reporting.images import Picture
from ddpm_jax.runtime.files import with_path

GROUPS = {
    "optimizer": ("gradient_norm", "learning_rate", "skipped_steps"),
    "speed": ("images_per_second", "data_wait_share", "share_of_peak"),
    "memory": ("device_memory_mebibytes", "host_memory_mebibytes"),
}
"""Groups of training metrics in TensorBoard; all others are in "train"."""
JUDGED_BY = ("validation/loss_ema", "train/loss", "evaluation/fid")
"""Curves by which runs are compared."""
QUALITY = ("train", "validation", "evaluation")
"""Groups of metrics that measure the model, rather than the machine or the optimizer."""
CHARTS = {
    "Loss": {
        "training and validation": ["Multiline", ["^train/loss$", "^validation/.*"]],
        "by quarter of the steps t": ["Multiline", ["^train/loss_t_.*"]],
    }
}
"""TensorBoard's page of custom scalars: curves that share a chart."""
WANDB_STEP = "training_step"
"""The metric over which W&B draws all others."""

logger = logging.getLogger(__name__)


def tag(name: str) -> str:
    """The name of a training metric with its group, such as speed/images_per_second."""
    return f"{next((group for group, names in GROUPS.items() if name in names), 'train')}/{name}"


class Writer:
    """A destination of reports; methods that a subclass does not override do nothing."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes metrics by their tags, at a training step."""

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """Writes an image, at a training step."""

    def text(self, name: str, text: str) -> None:
        """Writes a text in Markdown."""

    def close(self) -> None:
        """Closes the destination."""


class TensorBoard(Writer):
    """Event files in a folder; points that an interrupted run wrote after step `start` are hidden (None: none are).

    Written immediately, not through the thread of SummaryWriter: its flush leaves points in a queue, which a killed
    process loses, and on a full disk the thread dies and the next call waits forever.
    """

    def __init__(self, folder: Path, start: int | None, hyperparameters: Mapping[str, Any] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._events = EventsWriter(str(folder / "events"), f".{start or 0}")
        first = 0 if start is None else start + 1
        self._events.write_event(Event(wall_time=time.time(), step=first, file_version="brain.Event:2"))
        if start is not None:
            session = SessionLog(status=SessionLog.START)
            self._events.write_event(Event(wall_time=time.time(), step=first, session_log=session))
            self._write(0, summary.custom_scalars(CHARTS))
        if hyperparameters:
            experiment, values, _ = summary.hparams(dict(hyperparameters), dict.fromkeys(JUDGED_BY))
            self._write(0, experiment, values)

    def _write(self, step: int, *records: Any) -> None:
        with with_path(self._folder):
            for record in records:
                self._events.write_event(Event(wall_time=time.time(), step=step, summary=record))
            self._events.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._write(step, *(summary.scalar(name, value) for name, value in values.items()))

    def picture(self, step: int, name: str, picture: Picture) -> None:
        self._write(step, summary.image(name, picture, dataformats="HWC"))

    def text(self, name: str, text: str) -> None:
        self._write(0, summary.text(name, text))

    def close(self) -> None:
        with with_path(self._folder):
            self._events.close()


class ByImagesSeen(Writer):
    """The curves of QUALITY over the number of images seen, to compare runs with different batch sizes."""

    def __init__(self, writer: Writer, batch_size: int) -> None:
        self._writer, self._batch_size = writer, batch_size

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        # In separate groups, since a chart has only one axis.
        split = [(*name.split("/", 1), value) for name, value in values.items()]
        chosen = {f"{group}_by_images_seen/{name}": value for group, name, value in split if group in QUALITY}
        self._writer.scalars(step * self._batch_size, chosen)

    def close(self) -> None:
        self._writer.close()


class BestSoFar(Writer):
    """Keeps the lowest points of the curves in JUDGED_BY.

    lows: for each curve the points (step, value) lower than all before, so that a run may resume at any earlier step.
    """

    def __init__(self, lows: Mapping[str, Sequence[tuple[int, float]]] | None = None, until: int = 0) -> None:
        """lows: those of the run so far; points after step `until` are dropped."""
        self.lows: dict[str, list[tuple[int, float]]] = {}
        for name, points in (lows or {}).items():
            if kept := [(step, value) for step, value in points if step <= until]:
                self.lows[name] = kept

    def lowest(self) -> dict[str, tuple[int, float]]:
        """The lowest point (step, value) of each curve that has one, in the order of JUDGED_BY."""
        return {name: self.lows[name][-1] for name in JUDGED_BY if name in self.lows}

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name in JUDGED_BY:
            value, points = values.get(name, math.inf), self.lows.get(name, [])
            if math.isfinite(value) and (not points or value < points[-1][1]):
                self.lows[name] = [*points, (step, float(value))]


def import_wandb() -> Any:
    """The package of Weights & Biases; raises UserError with the remedy where it is missing."""
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UserError("log.wandb=True needs the wandb package: pip install wandb") from error
    return wandb


class WeightsAndBiases(Writer):
    """A run on wandb.ai; a resumed training continues the run with the same id.

    No error that its package raises ends training: one line says so, and the run goes on without it.
    """

    def __init__(self, workdir: Path, project: str, config: Mapping[str, Any], run_id: str) -> None:
        self._wandb, self._run = import_wandb(), None
        names = {"project": _valid_at_wandb(project), "id": _valid_at_wandb(run_id), "name": workdir.name}
        with self._never_fatal():
            self._run = self._wandb.init(**names, resume="allow", dir=workdir, config=dict(config))
            # W&B's own steps only ascend, while the metrics of a step may arrive after those of a later one.
            self._run.define_metric(WANDB_STEP)
            self._run.define_metric("*", step_metric=WANDB_STEP)

    @contextmanager
    def _never_fatal(self) -> Iterator[None]:
        """Logs an error of W&B, or of the connection to it, and does without it from then on."""
        try:
            yield
        except Exception as error:
            modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
            # Its settings, for example, raise ValueError and pydantic's errors; our own mistakes never enter it.
            if not isinstance(error, OSError) and "wandb" not in {name.partition(".")[0] for name in modules}:
                raise
            self._run = None
            logger.warning(
                "Weights & Biases cannot be used (%s), so training continues without it; run wandb login, or set "
                "WANDB_API_KEY, or WANDB_MODE=offline to upload later, and start again.",
                " ".join(str(error).split()).rstrip("."),
            )

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if self._run is not None:
            with self._never_fatal():
                self._run.log({**values, WANDB_STEP: step})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, dict(values))

    def picture(self, step: int, name: str, picture: Picture) -> None:
        if self._run is not None:
            with self._never_fatal():
                image = self._wandb.Image(picture[..., 0] if picture.shape[-1] == 1 else picture)
            self._log(step, {name: image})

    def text(self, name: str, text: str) -> None:
        if self._run is not None:
            with self._never_fatal():
                self._run.summary[name] = text

    def close(self) -> None:
        if self._run is not None:
            with self._never_fatal():
                self._run.finish()


def _valid_at_wandb(name: str) -> str:
    """A project or an id without the characters that W&B refuses, and no longer than it allows."""
    return re.sub(r"[/\\#?%:;,']", "-", name)[:128]


class Writers(Writer):
    """Forwards each report to several writers."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = writers

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.scalars(step, values)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        for writer in self._writers:
            writer.picture(step, name, picture)

    def text(self, name: str, text: str) -> None:
        for writer in self._writers:
            writer.text(name, text)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()
