"""A trace of some training steps for XProf and TensorBoard's profile plugin: the time of each operation."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
from jaxtyping import PyTree

logger = logging.getLogger(__name__)


class Profile:
    """Traces steps into <folder>/plugins/profile."""

    def __init__(self, folder: Path, steps: Sequence[int]) -> None:
        """steps: the first and the last, counted from 1, or empty for no trace."""
        self._folder, self._steps = folder, range(steps[0], steps[-1] + 1) if steps else range(0)
        self.running = False

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Wraps the call that starts step `number`."""
        if number in self._steps and not self.running:
            jax.profiler.start_trace(str(self._folder))
            self.running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def ends_at(self, number: int) -> bool:
        """Whether step `number` is the last one of the trace that is running."""
        return self.running and number + 1 not in self._steps

    def stop(self, result: PyTree) -> None:
        """Ends the trace, if there is one, when the result, an output of its last step, is ready."""
        if self.running:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            self.running = False
            logger.info("Wrote a trace of some steps to plugins/profile in the workdir")
