"""A trained run from Python:

from ddpm_jax import load_run
run = load_run("runs/x")
images = run.sample(16, sampler="ddim", steps=50, seed=0)
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree
from numpy.typing import ArrayLike

from ddpm_jax.config import Config, checked
from ddpm_jax.config.field_types import field_types, value_type
from ddpm_jax.diffusion.denoiser import Prediction
from ddpm_jax.errors import UserError, nearest, whole_number
from ddpm_jax.generation.conditions import checked_pixels, conditions_of, given_conditions
from ddpm_jax.generation.draw import Compiled, bind_config, compile_sampler, load_own_params, sample_pixels, with_guide
from ddpm_jax.generation.guides import GuidedParams, config_of_guide, guided_params, naming_guide, refuse_misfit
from ddpm_jax.generation.labels import choose_labels, label_names
from ddpm_jax.generation.requests import for_sampler, only_images, options_of
from ddpm_jax.generation.steps import SamplingStep, StepSampler
from ddpm_jax.interop.safetensors_file import PRETRAINED, find_file, read_file
from ddpm_jax.runtime.compilation import jit
from ddpm_jax.runtime.devices import data_mesh, replicated
from ddpm_jax.runtime.urls import AnyPath, as_path, check_folder, store_errors
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.shapes import ConditionPixels, Images, Labels, Pixels, Steps
from ddpm_jax.workdir import images_trained_on, read_config


def load_run(
    workdir: str | Path, *, step: int | None = None, ema: bool = True, ema_width: float | None = None
) -> "Run":
    """The run in a workdir, with the EMA (or raw) parameters of its newest checkpoint, or that of a step.

    workdir: a folder, a URL such as gs://bucket/runs/x, or pretrained:NAME, a model of the package (docs/diffusers.md).
    ema_width: the width of an EMA to rebuild from snapshots, at the newest one, or at the step.
    Raises UserError if there is no run, no checkpoint, or none of that step.
    """
    if str(workdir).startswith(PRETRAINED):
        if ema_width is not None:
            raise UserError(f"{workdir} has no snapshots of EMAs, from which one is rebuilt; leave ema_width out.")
        return _load_pretrained(str(workdir), step, ema)
    number = None if step is None else whole_number("step", step)
    width = None if ema_width is None else float(ema_width)
    folder = as_path(str(workdir), "workdir")
    with store_errors(folder):
        check_folder(folder)
        config = read_config(folder)
        chosen = dataclasses.replace(config.sample, ema=ema, ema_width=width, checkpoint=number)
        config = checked(dataclasses.replace(config, sample=chosen))
        params, found = load_own_params(config, folder, data_mesh())
        return Run(config, params, found, label_names(config, folder), images_trained_on(folder), folder)


def _load_pretrained(name: str, step: int | None, ema: bool) -> "Run":
    saved = read_file(find_file(name))
    if not ema or step not in (None, saved.step):
        raise UserError(f"{name} holds only the EMA parameters of step {saved.step}.")
    params = jax.device_put(saved.tree("ema"), replicated(data_mesh()))
    return Run(saved.config, params, saved.step, tuple(saved.names), None)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A trained model. Compiled samplers are cached, so that a second call with the same options is fast."""

    config: Config = dataclasses.field(repr=False)
    params: PyTree = dataclasses.field(repr=False)
    step: int
    """Training step of the parameters."""
    names: tuple[str, ...]
    """Names of the classes or attributes."""
    images: int | None
    """Number of images in its data set, including held-out ones; None if unknown."""
    workdir: AnyPath | None = None
    """None for a model that comes with the package."""

    def sample(
        self,
        count: int,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        seed: int | None = None,
        label: str | int | None = None,
        condition: ArrayLike | None = None,
        guide: "Run | str | Path | None" = None,
        **options: Any,
    ) -> Pixels:
        """Samples `count` images [count, height, width, channels], uint8, or uint16 if data.depth is 16.

        Image i depends only on (seed, i), and on its condition.
        condition: for an image-to-image model, pixels [N, height, width, channels] of config.condition_shape, repeated
        in turn to `count`: low-resolution or grey images, or images whose last channel is 255 where they are painted;
        `conditions_of` makes them from originals.
        guide: for autoguidance, a worse model with which `guidance` compares: another Run, or the text of sample.guide.

        Other options are fields of config.sample, such as spacing, eta or guidance; docs/configuration.md lists them.
        Their defaults are the configuration of the run; with another sampler than that of the run, options specific to
        a sampler, such as steps and spacing, have the defaults of config.sample.
        """
        given = {"sampler": sampler, "steps": steps, "seed": seed, "label": label, "guide": guide}
        config = self._configured(count, options_of(self.config.sample), given | options, self._task)
        labels = choose_labels(config, self.names, np.arange(count))
        conditions = given_conditions(config, condition, count)
        compiled = _sampler(_kind(config, count=1, batch_size=1))
        return sample_pixels(config, compiled, self._guided(config, guide), labels, data_mesh(), conditions)

    def conditions_of(self, originals: ArrayLike, *, seed: int | None = None) -> ConditionPixels:
        """The conditions that training makes of original images, for `sample(condition=…)`.

        originals: [N, height, width, channels] of the type of samples; seed: that of the masks, by default
        config.sample.seed.
        """
        if self.config.condition_shape is None:
            raise UserError("conditions_of is for image-to-image models; this one has model.condition='none'.")
        originals = checked_pixels(originals, "originals are", self.config, self.config.image_shape)
        return conditions_of(self.config, originals, self._seeded(len(originals), seed).sample.seed)

    def iter_steps(self, count: int, *, condition: ArrayLike | None = None, **options: Any) -> Iterator[SamplingStep]:
        """Samples the images of `sample` in one batch, and yields each step.

        The last step holds the images. Leaving the loop early (`break`) stops sampling. Options as for `sample`,
        without batch_size.
        """
        config = self._configured(count, options_of(self.config.sample, batched=False), options, self._task)
        labels = choose_labels(config, self.names, np.arange(count))
        conditions = given_conditions(config, condition, count)
        params = self._guided(config, options.get("guide"))
        return _step_sampler(_kind(config)).iterate(params, config.sample.seed, labels, conditions=conditions)

    def inpaint(
        self, images: ArrayLike, mask: ArrayLike, *, count: int | None = None, **options: Any
    ) -> Iterator[SamplingStep]:
        """Replaces the pixels under a mask by samples (RePaint), and yields each step as `iter_steps` does.

        images: [N, height, width, channels] of the type of samples, repeated in turn to `count` images (N by default);
        mask: [height, width], nonzero where pixels are sampled. Options as for `iter_steps` with DDPM (250 steps by
        default), and `resamples` and `jump`; without a label the model is unconditional.
        """
        mask, shape = np.asarray(mask), self.config.image_shape
        images = checked_pixels(images, "images are", self.config, shape)
        if mask.dtype.kind not in "biuf" or mask.shape != shape[:2]:
            raise UserError(
                f"mask is {mask.dtype} {list(mask.shape)}; expected numbers or booleans [{str(shape[:2])[1:-1]}]."
            )
        if not 0 < (sampled := np.count_nonzero(mask)) < mask.size:
            raise UserError(
                f"mask is nonzero at {sampled} of {mask.size} pixels; expected nonzero where pixels are sampled, and 0 "
                "at some others."
            )
        count = len(images) if count is None else whole_number("count", count)
        chosen = vars(self.config.sample) | {name: value for name, value in options.items() if value is not None}
        if chosen["label"] is None and chosen["guide"] is None:
            options = {"guidance": 1.0} | options  # There is nothing to compare with.
        known = options_of(self.config.sample, "inpaint", batched=False)
        config = self._configured(count, known, {"sampler": "ddpm"} | options, "inpaint")
        labels = None
        if config.sample.label is not None:
            labels = choose_labels(config, self.names, np.arange(count))
        inputs = (images[np.arange(count) % len(images)], (mask != 0).astype(np.float32)[..., None])
        params = self._guided(config, options.get("guide"))
        return _step_sampler(_kind(config)).iterate(params, config.sample.seed, labels, inputs)

    def noise(self, count: int, *, seed: int | None = None) -> Float[np.ndarray, "count height width channels"]:
        """The x_T of `sample(count, seed=seed)`, float32."""
        keys = image_keys(self._seeded(count, seed).sample.seed, np.arange(count))
        return np.asarray(draw_noise(keys, 0, self.config.image_shape))

    def _seeded(self, count: int, seed: int | None) -> Config:
        seed = self.config.sample.seed if seed is None else whole_number("seed", seed)
        settings = dataclasses.replace(self.config.sample, count=whole_number("count", count), seed=seed)
        return checked(dataclasses.replace(self.config, sample=settings))

    def denoiser(
        self,
        x_t: Images,
        t: Steps | Sequence[int],
        labels: Labels | Sequence[int] | None = None,
        condition: ArrayLike | None = None,
    ) -> Prediction:
        """The prediction for x_t [batch, height, width, channels] at t [batch] in 1..T: .x0 and .eps, not clipped.

        labels: class numbers [batch] (-1: no label), or attributes [batch, attributes] of 0 and 1; None for no labels.
        condition: see `sample`.
        """
        shape, steps = self.config.image_shape, self.config.diffusion.steps
        x_t, t = np.asarray(x_t), np.asarray(t)
        if x_t.dtype != np.float32 or x_t.ndim != 4 or x_t.shape[1:] != shape or not len(x_t):
            raise UserError(f"x_t is {x_t.dtype} {list(x_t.shape)}; expected float32 [batch, {str(shape)[1:-1]}].")
        if t.dtype.kind not in "iu" or t.shape != x_t.shape[:1] or t.min() < 1 or t.max() > steps:
            raise UserError(f"t={t} must hold a whole step in 1..{steps} for each of {len(x_t)} images.")
        numbers, conditions = self._labels(labels, len(x_t)), given_conditions(self.config, condition, len(x_t))
        given = (self.config.sample.seed, np.arange(len(x_t)), conditions)
        return self._denoise(self.params, x_t, t.astype(np.int32), numbers, *given)

    def _labels(self, labels: ArrayLike | None, count: int) -> Labels | None:
        if labels is None:
            return None
        labels, model = np.asarray(labels), self.config.model
        if not self.config.label_width:
            raise UserError("labels need a conditional model; this one has model.classes=0 and model.attributes=0.")
        shape, low, high = (count,), -1, model.classes - 1
        if model.attributes:
            shape, low, high = (count, model.attributes), 0, 1
        if labels.dtype.kind not in "iub" or labels.shape != shape or labels.min() < low or labels.max() > high:
            raise UserError(
                f"labels={labels.tolist()} must hold a whole number in {low}..{high} for each of {list(shape)}."
            )
        return labels.astype(np.int32 if model.classes else np.uint8)

    @property
    def _task(self) -> str:
        return "condition" if self.config.condition_shape else "generate"

    def _guided(self, config: Config, guide: Any) -> PyTree:
        """The parameters for a call, with those of its guide, if any; the last one that was named is kept."""
        named = config.sample.guide
        if named is None:
            return self.params
        if isinstance(guide, Run):
            with naming_guide(config):
                refuse_misfit(config, self.names, guide.config, guide.names)
                return guided_params(config, self.params, guide.config, guide.params, guide.step)
        if named not in self._named_guide:
            self._named_guide.clear()
            place = self.workdir, self.names
            self._named_guide[named] = with_guide(config, *place, self.params, self.step, data_mesh())
        found = self._named_guide[named]
        with naming_guide(config):  # Another call may noise its conditions more.
            return dataclasses.replace(found, guide_config=config_of_guide(found.guide_config, config))

    @cached_property
    def _named_guide(self) -> dict[str, GuidedParams]:
        return {}

    def _configured(self, count: int, known: Sequence[str], options: dict[str, Any], task: str) -> Config:
        """The configuration of the run with the options of a call; None leaves an option at its default."""
        options = {name: value for name, value in options.items() if value is not None}
        for name in options.keys() - set(known):
            raise UserError(f"There is no option {name}; {nearest(name, known)}")
        if isinstance(guide := options.get("guide"), (Run, Path)):
            options["guide"] = str((guide.workdir or "a Run") if isinstance(guide, Run) else guide)
        # NumPy numbers are accepted, as are whole numbers for floats, and lists or arrays for tuples.
        options = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
        kinds = {name: value_type(hint) for name, hint in field_types(type(self.config.sample)).items()}
        for name, value in options.items():
            if kinds[name] is float and type(value) is int:
                options[name] = float(value)
            elif kinds[name] is tuple:
                options[name] = tuple(np.asarray(value).tolist())
        if "label" in options:
            several = isinstance(options["label"], (list, tuple, np.ndarray))
            options["label"] = ",".join(map(str, options["label"])) if several else str(options["label"])
        settings = only_images(for_sampler(self.config.sample, options.get("sampler", self.config.sample.sampler)))
        settings = dataclasses.replace(settings, task=task, count=whole_number("count", count), **options)
        return checked(dataclasses.replace(self.config, sample=settings))

    @cached_property
    def _denoise(self) -> Any:
        bound = bind_config(self.config)

        def denoise(params: PyTree, x_t: Images, t: Steps, labels: Labels | None, *given: Any) -> Prediction:
            seed, indices, conditions = given
            return bound(params, seed, indices, labels, conditions)(x_t, t)

        return jit(denoise)


NOT_COMPILED = {"seed": 0, "label": None, "guide": None, "ema": True, "ema_width": None, "checkpoint": None}
"""Fields of `sample` that a compiled sampler does not depend on; it sees a guide by its parameters."""


def _kind(config: Config, **same: Any) -> Config:
    """The configuration with the fields at fixed values that a compiled sampler does not depend on."""
    return dataclasses.replace(config, sample=dataclasses.replace(config.sample, **NOT_COMPILED, **same))


# Shared by all runs with the same configuration.
@lru_cache(maxsize=32)
def _sampler(config: Config) -> Compiled:
    return compile_sampler(config, data_mesh())


@lru_cache(maxsize=32)
def _step_sampler(config: Config) -> StepSampler:
    return StepSampler(config, data_mesh())
