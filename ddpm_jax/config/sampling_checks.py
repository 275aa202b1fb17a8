"""Checks of the fields of sampling against each other, and against the model and how it was trained."""

import itertools

from ddpm_jax.config.fields import meanings
from ddpm_jax.config.sections import Config, Sample
from ddpm_jax.errors import UserError


def check_sampling(config: Config) -> None:
    """Raises UserError if fields of sampling contradict each other or the model."""
    _check_used(config.sample)
    _check_variance_and_threshold(config)
    _check_ema(config)
    _check_task(config)
    _check_timesteps(config)
    _check_guidance(config)


def _check_used(sample: Sample) -> None:
    """Refuses fields that the sampler or the task does not use."""
    default = type(sample)()
    for name, meaning in meanings(type(sample)).items():
        value = getattr(sample, name)
        if value == getattr(default, name) or meaning.ignored:
            continue
        for chooser, users in (("sampler", meaning.samplers), ("task", meaning.tasks)):
            if users and (chosen := getattr(sample, chooser)) not in users:
                raise UserError(
                    f"sample.{name}={value} has no effect with sample.{chooser}={chosen!r}; set the {chooser} to "
                    f"{' or '.join(map(repr, users))}."
                )


def _refuse_if_set(sample: Sample, names: tuple[str, ...], problem: str) -> None:
    for name in names:
        if (value := getattr(sample, name)) != getattr(Sample(), name):
            raise UserError(f"sample.{name}={value} {problem}")


def _check_variance_and_threshold(config: Config) -> None:
    sample = config.sample
    if sample.variance == "learned" and config.diffusion.variance != "learned":
        raise UserError(
            "sample.variance='learned' needs a model trained with diffusion.variance='learned', "
            f"got {config.diffusion.variance!r}."
        )
    if sample.sampler == "unipc" and sample.order == 3:
        raise UserError("sample.order=3 is too high for sample.sampler='unipc'; expected 1 or 2, or 'dpm_solver'.")
    if sample.threshold != "dynamic":
        _refuse_if_set(sample, ("percentile", "percentile_max"), "has no effect; set sample.threshold='dynamic'.")
    if sample.keep_eps and sample.threshold == "none":
        raise UserError(
            "sample.keep_eps=True has no effect with sample.threshold='none'; set the threshold to 'clip' or 'dynamic'."
        )


def _check_ema(config: Config) -> None:
    sample = config.sample
    if sample.ema_width is not None:
        refuse_without_snapshots(config, "sample.ema_width", sample.ema_width)
    if sample.ema_width is not None and not sample.ema:
        raise UserError(
            f"sample.ema_width={sample.ema_width} has no effect with sample.ema=False; leave out one of them."
        )


def refuse_without_snapshots(config: Config, name: str, value: object) -> None:
    """Raises UserError for a field that needs snapshots of the EMAs, if the run has none."""
    if not config.optimizer.ema_snapshots:
        raise UserError(
            f"{name}={value} needs snapshots of the EMAs, but the run was trained with optimizer.ema_snapshots=0; "
            "leave it out, or train a new run with them."
        )


def _check_task(config: Config) -> None:
    sample = config.sample
    inverts = sample.task in ("reconstruct", "interpolate")
    if inverts and sample.threshold == "dynamic":
        raise UserError(
            f"sample.threshold='dynamic' cannot be inverted, as sample.task={sample.task!r} requires; leave it out."
        )
    if inverts and (sample.sampler, sample.eta) != ("ddim", 0.0):
        raise UserError(
            f"sample.task={sample.task!r} needs sample.sampler='ddim' with sample.eta=0, the only invertible sampler; "
            f"got {sample.sampler!r} and {sample.eta}."
        )
    if sample.task == "inpaint" and sample.sampler != "ddpm":
        raise UserError(f"sample.task='inpaint' needs sample.sampler='ddpm', got {sample.sampler!r}.")
    condition = config.model.condition
    if sample.task == "condition" and condition == "none":
        raise UserError("sample.task='condition' needs an image-to-image model; this one has model.condition='none'.")
    if sample.task not in ("generate", "condition") and condition != "none":
        raise UserError(
            f"sample.task={sample.task!r} needs a model without a condition, got model.condition={condition!r}; set "
            "the task to 'condition'."
        )
    if sample.task == "interpolate" and sample.count < 2:
        raise UserError(f"sample.count={sample.count} leaves nothing between two images; expected 2 or more.")


def _check_timesteps(config: Config) -> None:
    sample, total = config.sample, config.diffusion.steps
    if sample.steps is not None and sample.steps > total:
        raise UserError(f"sample.steps={sample.steps} exceeds diffusion.steps={total}; expected at most as many.")
    if not sample.timesteps:
        return
    listed, bounded = sample.timesteps, (total + 1, *sample.timesteps, 0)
    if any(t <= s for t, s in itertools.pairwise(bounded)):
        raise UserError(f"sample.timesteps={listed} must descend, within {total} to 1.")
    if sample.steps not in (None, len(listed)):
        raise UserError(
            f"sample.steps={sample.steps}, but sample.timesteps={listed} lists {len(listed)}; leave one of them out."
        )
    if sample.spacing != Sample().spacing:
        raise UserError(
            f"sample.spacing={sample.spacing!r} has no effect with sample.timesteps={listed}; leave one of them out."
        )
    if sample.final == "sigma_min" and listed == (1,):
        raise UserError("sample.final='sigma_min' ends at step 1, where sample.timesteps=(1,) starts; add a step.")


def _check_guidance(config: Config) -> None:
    sample = config.sample
    interval, total = sample.guidance_interval, config.diffusion.steps
    if interval and not (len(interval) == 2 and 1 <= interval[0] <= interval[1] <= total):
        raise UserError(
            f"sample.guidance_interval={interval} is not an interval; expected (low, high) with 1 <= low <= high <= "
            f"diffusion.steps={total}, or ()."
        )
    needs_no_label = config.train.condition_dropout > 0.0 or sample.guide is not None
    if not config.label_width:
        problem = "this one has model.classes=0 and model.attributes=0"
        _refuse_if_set(sample, ("label",), f"needs a conditional model; {problem}.")
        if config.model.condition != "none":
            problem += ", and was never trained without its condition (train.condition_dropout=0)"
        problem = f"needs a conditional model, or sample.guide; {problem}."
        _refuse_if_set(sample, () if needs_no_label else ("guidance",), problem)
    without_label = (config.model.attributes or sample.task not in ("generate", "compare")) and not needs_no_label
    if sample.guidance != 1.0 and sample.label is None and without_label:
        raise UserError(f"sample.guidance={sample.guidance} has no effect without a label; set sample.label too.")
    if sample.guidance == 1.0:
        problem = "has no effect with sample.guidance=1.0; set the guidance too."
        _refuse_if_set(sample, ("guide", "guidance_interval", "guidance_rescale"), problem)
