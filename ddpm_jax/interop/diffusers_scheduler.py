"""The scheduler of a diffusers pipeline, and the equivalent fields of a configuration.

    scheduler/scheduler_config.json  <->  diffusion.*, sample.*

All settings of DDPM and DDIM are imported, and those of LCM, the sampler of models that were tuned for consistency; of
other schedulers, only the noise schedule is.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax.builders import DEFAULT_SPACINGS, sampling_spacing, sampling_variance
from ddpm_jax.config import Config
from ddpm_jax.config.sections import Sample
from ddpm_jax.diffusion.schedule import BETAS, MAX_BETA
from ddpm_jax.errors import UserError
from ddpm_jax.interop.diffusers_options import checked_float

SAMPLERS = {"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim", "LCMScheduler": "consistency"}
SAME_NOISE = (
    *("PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"),
    *("DEISMultistepScheduler", "HeunDiscreteScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler"),
)
"""Schedulers of which only the noise schedule is imported."""
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "learned_range": "learned",
}
SCHEDULES = {"linear": "linear", "scaled_linear": "quadratic", "squaredcos_cap_v2": "cosine"}
SPACINGS = ("leading", "trailing", "linspace")
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "clip_sample_range": (1.0,),
    "steps_offset": (0,),
    "set_alpha_to_one": (True,),
    "prediction_type": tuple(PREDICTIONS),
    "variance_type": tuple(VARIANCES),
    "timestep_spacing": SPACINGS,
}
"""Options of which only these values are supported."""
DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "variance_type": "fixed_small",
    "clip_sample": True,
    "prediction_type": "epsilon",
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "clip_sample_range": 1.0,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}
"""Options of DDPMScheduler, with defaults for those that a file omits."""
OF_LATENTS = {"beta_start": 0.00085, "beta_end": 0.012}
OTHER_DEFAULTS: dict[str, dict[str, Any]] = {
    "HeunDiscreteScheduler": OF_LATENTS,
    "LCMScheduler": OF_LATENTS
    | {"beta_schedule": "scaled_linear", "clip_sample": False, "original_inference_steps": 50},
}
"""Defaults that differ from DDPMScheduler's."""
WITH_ENDS = ("linear", "quadratic")
"""Schedules with a beta_start and a beta_end."""
MOST_STEPS = 10**6
NUMBERS = ("beta_start", "beta_end", "dynamic_thresholding_ratio", "sample_max_value")
SWITCHES = ("clip_sample", "thresholding", "rescale_betas_zero_snr")
UNBOUNDED = 1e6
"""sample_max_value for dynamic thresholding without a limit."""

logger = logging.getLogger(__name__)


def noise_of(scheduler: Mapping[str, Any], where: str, learned: bool) -> dict[str, Any]:
    """The fields of a configuration that describe a scheduler; learned: whether the network predicts the variance."""
    name = scheduler.get("_class_name", "DDPMScheduler")
    if name not in (*SAMPLERS, *SAME_NOISE):
        raise UserError(f"{where} describes a {name}; supported are {', '.join((*SAMPLERS, *SAME_NOISE))}.")
    given = {key: value for key, value in scheduler.items() if not key.startswith("_")}
    options = DEFAULTS | OTHER_DEFAULTS.get(name, {}) | _renamed(given)
    other = options.keys() - DEFAULTS.keys() - {"set_alpha_to_one"}  # DDIMScheduler's own.
    foreign = sorted(key for key in other if options[key] != _lcm_options(options["num_train_timesteps"]).get(key))
    if options.get("use_flow_sigmas"):
        raise UserError(f"{where}: use_flow_sigmas=True is not supported; expected False.")
    if foreign:
        logger.warning("%s: ignoring %s", where, ", ".join(foreign))
    for option, values in SUPPORTED.items():
        # Of other schedulers, only the noise schedule is imported; DDIM has no variance.
        ignored = name not in SAMPLERS or (name, option) == ("DDIMScheduler", "variance_type")
        if (option == "prediction_type" or not ignored) and options.get(option, values[0]) not in values:
            expected = " or ".join(repr(value) for value in values)
            raise UserError(f"{where}: {option}={options[option]!r} is not supported; expected {expected}.")
    for option in SWITCHES:
        if type(options[option]) is not bool:
            raise UserError(f"{where}: {option}={options[option]!r} is not supported; expected true or false.")
    for option in NUMBERS:
        options[option] = checked_float(options[option], f"{where}: {option}")
    fields = {
        **_betas_of(options, where),
        "diffusion.prediction": PREDICTIONS[options["prediction_type"]],
        "diffusion.zero_terminal_snr": bool(options["rescale_betas_zero_snr"]),
        "diffusion.variance": _variance(name, options, where, learned),
    }
    if name == "LCMScheduler":
        fields["diffusion.objective"] = "consistency"
    return fields | (_sampling_of(name, options) if name in SAMPLERS else {})


def _renamed(options: dict[str, Any]) -> dict[str, Any]:
    """The options under their present names; files from 2022 have others."""
    for name in ("tensor_format", "timestep_values"):
        options.pop(name, None)
    predicts_eps = options.pop("predict_epsilon", None)
    if predicts_eps is not None:
        options.setdefault("prediction_type", "epsilon" if predicts_eps else "sample")
    return options


def _betas_of(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    steps, kind = options["num_train_timesteps"], options["beta_schedule"]
    if type(steps) is not int or not 2 <= steps < MOST_STEPS:
        raise UserError(
            f"{where}: num_train_timesteps={str(steps)[:80]} is not supported; expected an integer of at least 2."
        )
    if options["trained_betas"] is None and kind not in tuple(SCHEDULES):
        raise UserError(f"{where}: beta_schedule={kind!r} is not supported; expected one of {', '.join(SCHEDULES)}.")
    # Our ends are those of a schedule with 1,000 steps, theirs those of the actual schedule.
    ends = {f"diffusion.{end}": options[end] * steps / 1000 for end in ("beta_start", "beta_end")}
    if options["trained_betas"] is not None:
        name = _schedule_of(options["trained_betas"], steps, tuple(ends.values()), where)
    else:
        name = SCHEDULES[kind]
    return {"diffusion.steps": steps, "diffusion.schedule": name} | (ends if name in WITH_ENDS else {})


def _schedule_of(betas: Any, steps: int, ends: tuple[float, ...], where: str) -> str:
    """The name of the schedule with these betas."""
    numbers = isinstance(betas, list) and all(type(beta) in (int, float) and 0 <= beta <= 1 for beta in betas)
    listed = np.array(betas if numbers else [], np.float64)
    if listed.shape == (steps,):
        for name, make in BETAS.items():
            if np.allclose(listed, make(steps, *(ends if name in WITH_ENDS else ())), rtol=1e-5):
                return name
    raise UserError(
        f"{where}: trained_betas lists {listed.size} betas of no known schedule; expected null, or the betas of "
        f"{', '.join(BETAS)}."
    )


def _variance(name: str, options: Mapping[str, Any], where: str, learned: bool) -> str:
    """diffusion.variance; of the schedulers, only DDPM's has such an option."""
    if name != "DDPMScheduler":
        return "learned" if learned else "fixed_large"
    variance = VARIANCES[options["variance_type"]]
    if (variance == "learned") != learned:
        raise UserError(
            f"{where}: variance_type={options['variance_type']!r}, but the network predicts {'a' if learned else 'no'} "
            "variance (out_channels); expected 'learned_range' if and only if it does."
        )
    return variance


def _sampling_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    # An LCMScheduler ignores timestep_spacing.
    spacing = "trailing" if name == "LCMScheduler" else options["timestep_spacing"]
    threshold = "dynamic" if options["thresholding"] else "clip" if options["clip_sample"] else "none"
    fields = {
        "sample.sampler": SAMPLERS[name],
        "sample.spacing": None if spacing == DEFAULT_SPACINGS[SAMPLERS[name]] else spacing,
        "sample.threshold": threshold,
        "sample.keep_eps": name == "DDIMScheduler" and threshold != "none",
    }
    if threshold == "dynamic":
        largest = options["sample_max_value"]
        fields["sample.percentile"] = options["dynamic_thresholding_ratio"]
        fields["sample.percentile_max"] = None if largest >= UNBOUNDED else largest
    return fields


def scheduler_of(config: Config) -> dict[str, Any]:
    """The scheduler_config.json that is equivalent to a configuration, with all steps for a DDPMScheduler."""
    diffusion, sample, spacing = config.diffusion, config.sample, sampling_spacing(config.sample)
    theirs = {ours: name for name, ours in SCHEDULES.items()}
    prediction = {ours: name for name, ours in PREDICTIONS.items()}[diffusion.prediction]
    options = DEFAULTS | {
        "num_train_timesteps": diffusion.steps,
        # A learned variance must be split from the output even if another is sampled with.
        "variance_type": "learned_range" if diffusion.variance == "learned" else sampling_variance(config),
        "clip_sample": sample.threshold != "none",
        "prediction_type": prediction,
        "thresholding": sample.threshold == "dynamic",
        "dynamic_thresholding_ratio": sample.percentile,
        "sample_max_value": (sample.percentile_max or UNBOUNDED) if sample.threshold == "dynamic" else 1.0,
        "timestep_spacing": spacing if spacing in SPACINGS else "trailing",
        "rescale_betas_zero_snr": diffusion.zero_terminal_snr,
    }
    ends = (diffusion.beta_start, diffusion.beta_end) if diffusion.schedule in WITH_ENDS else ()
    if ends:
        options |= {"beta_start": ends[0] * 1000 / diffusion.steps, "beta_end": ends[1] * 1000 / diffusion.steps}
    if diffusion.schedule in theirs:
        options["beta_schedule"] = theirs[diffusion.schedule]
    if diffusion.schedule not in theirs or options["beta_end"] > MAX_BETA:  # diffusers does not cap them.
        options["trained_betas"] = BETAS[diffusion.schedule](diffusion.steps, *ends).tolist()
    name = scheduler_class(config)
    _warn_of_omissions(config, name)
    if name == "LCMScheduler":
        del options["variance_type"]
        options |= {"timestep_spacing": "trailing", **_lcm_options(diffusion.steps)}
    return {"_class_name": name, **options}


def scheduler_class(config: Config) -> str:
    """The diffusers class that samples from a model."""
    return "LCMScheduler" if config.diffusion.objective == "consistency" else "DDPMScheduler"


def _lcm_options(steps: int) -> dict[str, Any]:
    """The settings of an LCMScheduler that make its steps those of our consistency sampling.

    From as many original steps as there are, it chooses those of "trailing". It takes a share of x_t for x_0, 1 / (1 +
    (2 n timestep_scaling)^2) at its step n, which its default of 10 leaves at 0.2% for n = 1.
    """
    return {"original_inference_steps": steps, "timestep_scaling": 1e4}


def _warn_of_omissions(config: Config, scheduler: str) -> None:
    sample, defaults = config.sample, vars(Sample()) | {"sampler": SAMPLERS[scheduler]}
    omitted = [name for name in ("sampler", "steps", "timesteps", "final") if getattr(sample, name) != defaults[name]]
    if sample.spacing not in (None, *(("trailing",) if scheduler == "LCMScheduler" else SPACINGS)):
        omitted.append("spacing")
    if config.diffusion.variance == "learned" and sample.variance not in (None, "learned"):
        omitted.append("variance")
    if omitted:
        settings = ", ".join(f"sample.{name}={getattr(sample, name)}" for name in omitted)
        logger.warning("diffusers' %s has no options for %s, which are omitted", scheduler, settings)
