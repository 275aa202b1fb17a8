"""Where figures and pictures go while training: TensorBoard, and Weights & Biases if asked, through the same calls."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tensorboardX import SummaryWriter

from ddpm_jax.errors import UserError
from ddpm_jax.reporting.images import Picture


@runtime_checkable
class Writer(Protocol):
    """What a place for reports can take; steps are training steps."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...
    def picture(self, step: int, name: str, picture: Picture) -> None: ...
    def text(self, name: str, text: str) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in a folder; what an earlier, interrupted run wrote after step `start` is hidden."""

    def __init__(self, folder: Path, start: int) -> None:
        self._folder = folder
        self._summary = SummaryWriter(str(folder), purge_step=start + 1, flush_secs=10, filename_suffix=f".{start}")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._check()
            self._summary.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        self._check()
        self._summary.add_image(name, picture, step, dataformats="HWC")

    def text(self, name: str, text: str) -> None:
        self._check()
        self._summary.add_text(name, text, 0)

    def flush(self) -> None:
        self._check()
        self._summary.flush()

    def close(self) -> None:
        if self._writes():
            self._summary.close()

    def _writes(self) -> bool:
        """Whether the thread that tensorboardX writes in lives: a full disk ends it, and later calls would hang."""
        file_writer: Any = self._summary.file_writer
        return file_writer.event_writer._worker.is_alive()

    def _check(self) -> None:
        if not self._writes():
            raise UserError(f"TensorBoard's files in {self._folder} cannot be written; free some space, then resume.")


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
