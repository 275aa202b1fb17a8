"""The noise schedule of a diffusers pipeline, and the fields of a configuration that say the same.

    scheduler/scheduler_config.json  <->  diffusion.*, sample.*

DDPM and DDIM are told with all their settings. Of other schedulers only the noise is taken, which they share.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax.assemble import sampling_variance
from ddpm_jax.config import Config
from ddpm_jax.diffusion.schedule import BETAS
from ddpm_jax.errors import UserError

SAMPLERS = {"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim"}
SAME_NOISE = (
    *("PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"),
    *("DEISMultistepScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler"),
)
"""Their samplers are left to sample.sampler."""
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "learned_range": "learned",
}
SCHEDULES = {"linear": "linear", "scaled_linear": "quadratic", "squaredcos_cap_v2": "cosine"}
SPACINGS = {"leading": "leading", "trailing": "trailing", "linspace": "linspace"}
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "clip_sample_range": (1.0,),
    "steps_offset": (0,),
    "set_alpha_to_one": (True,),
    "prediction_type": tuple(PREDICTIONS),
    "variance_type": tuple(VARIANCES),
    "timestep_spacing": tuple(SPACINGS),
}
"""Options of which only some values are known here."""
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
"""DDPMScheduler's options, and what one means that a file leaves out."""
NUMBERS = ("beta_start", "beta_end", "dynamic_thresholding_ratio", "sample_max_value")
ALSO = ("set_alpha_to_one",)
"""DDIMScheduler's own option."""
UNBOUNDED = 1e6
"""sample_max_value, where dynamic thresholding may divide by any number."""


def noise_of(scheduler: Mapping[str, Any], where: str, learned: bool) -> dict[str, Any]:
    """The fields that describe a scheduler; learned: whether the network's output has a variance."""
    name = scheduler.get("_class_name", "DDPMScheduler")
    if name not in (*SAMPLERS, *SAME_NOISE):
        raise UserError(f"{where} describes a {name}; supported are {', '.join((*SAMPLERS, *SAME_NOISE))}.")
    options = DEFAULTS | {key: value for key, value in scheduler.items() if not key.startswith("_")}
    if name in SAMPLERS:
        for option in options.keys() - DEFAULTS.keys() - set(ALSO):
            raise UserError(f"{where}: {option}={options[option]!r} is not an option of {name}.")
        for option, values in SUPPORTED.items():
            if options.get(option, values[0]) not in values:
                expected = " or ".join(repr(value) for value in values)
                raise UserError(f"{where}: {option}={options[option]!r} is not supported; expected {expected}.")
    elif options["prediction_type"] not in PREDICTIONS:
        raise UserError(
            f"{where}: prediction_type={options['prediction_type']!r} is not supported; expected one of "
            f"{', '.join(PREDICTIONS)}."
        )
    for option in NUMBERS:
        if type(options[option]) not in (int, float):
            raise UserError(f"{where}: {option}={options[option]!r} is not supported; expected a number.")
    fields = {
        **_betas_of(options, where),
        "diffusion.prediction": PREDICTIONS[options["prediction_type"]],
        "diffusion.zero_terminal_snr": bool(options["rescale_betas_zero_snr"]),
        "diffusion.variance": _variance(name, options, where, learned),
    }
    return fields | (_sampling_of(name, options) if name in SAMPLERS else {})


def _betas_of(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    steps, kind, trained = (options[name] for name in ("num_train_timesteps", "beta_schedule", "trained_betas"))
    if type(steps) is not int or steps < 2:
        raise UserError(f"{where}: num_train_timesteps={steps!r} is not supported; expected a whole number from 2 on.")
    if trained is not None:
        return {"diffusion.steps": steps, "diffusion.schedule": _named(trained, steps, where)}
    if kind not in SCHEDULES:
        raise UserError(f"{where}: beta_schedule={kind!r} is not supported; expected one of {', '.join(SCHEDULES)}.")
    fields = {"diffusion.steps": steps, "diffusion.schedule": SCHEDULES[kind]}
    if kind == "squaredcos_cap_v2":
        return fields
    # Our ends are those of 1,000 steps, theirs those of the steps that there are.
    ends = {f"diffusion.{end}": float(options[end]) * steps / 1000 for end in ("beta_start", "beta_end")}
    return fields | ends


def _named(betas: Any, steps: int, where: str) -> str:
    """The schedule whose betas are listed."""
    numbers = isinstance(betas, list) and all(type(beta) in (int, float) for beta in betas)
    listed = np.array(betas if numbers else [], np.float64)
    for name, make in BETAS.items():
        if listed.shape == (steps,) and np.allclose(listed, make(steps), rtol=1e-5, atol=1e-9):
            return name
    raise UserError(
        f"{where}: trained_betas lists {listed.size} betas of no schedule that is known here; expected none, or those "
        f"of {', '.join(BETAS)}."
    )


def _variance(name: str, options: Mapping[str, Any], where: str, learned: bool) -> str:
    """Only DDPM's scheduler says which variance it takes."""
    if name != "DDPMScheduler":
        return "learned" if learned else "fixed_large"
    variance = VARIANCES[options["variance_type"]]
    if (variance == "learned") != learned:
        outputs = "a variance besides" if learned else "no variance"
        raise UserError(
            f"{where}: variance_type={options['variance_type']!r}, but the network puts out {outputs} (out_channels); "
            "expected 'learned_range' exactly where it does."
        )
    return variance


def _sampling_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    spacing = SPACINGS[options["timestep_spacing"]]
    threshold = "dynamic" if options["thresholding"] else "clip" if options["clip_sample"] else "none"
    fields = {
        "sample.sampler": SAMPLERS[name],
        "sample.spacing": None if spacing == "leading" else spacing,
        "sample.threshold": threshold,
        "sample.keep_eps": name == "DDIMScheduler" and threshold != "none",
    }
    if threshold == "dynamic":
        largest = float(options["sample_max_value"])
        fields["sample.percentile"] = float(options["dynamic_thresholding_ratio"])
        fields["sample.percentile_max"] = None if largest >= UNBOUNDED else largest
    return fields


def scheduler_of(config: Config) -> dict[str, Any]:
    """The scheduler_config.json of the DDPMScheduler that samples as a configuration does, with all steps."""
    diffusion, sample = config.diffusion, config.sample
    theirs = {ours: name for name, ours in SCHEDULES.items()}
    prediction = {ours: name for name, ours in PREDICTIONS.items()}[diffusion.prediction]
    options = DEFAULTS | {
        "num_train_timesteps": diffusion.steps,
        "variance_type": _variance_type(config),
        "clip_sample": sample.threshold != "none",
        "prediction_type": prediction,
        "thresholding": sample.threshold == "dynamic",
        "dynamic_thresholding_ratio": sample.percentile,
        "sample_max_value": sample.percentile_max or UNBOUNDED,
        "timestep_spacing": sample.spacing if sample.spacing in SPACINGS else "leading",
        "rescale_betas_zero_snr": diffusion.zero_terminal_snr,
    }
    if diffusion.schedule in theirs:
        options["beta_schedule"] = theirs[diffusion.schedule]
        options["beta_start"] = diffusion.beta_start * 1000 / diffusion.steps
        options["beta_end"] = diffusion.beta_end * 1000 / diffusion.steps
    else:
        options["trained_betas"] = BETAS[diffusion.schedule](diffusion.steps).tolist()
    return {"_class_name": "DDPMScheduler", **options}


def _variance_type(config: Config) -> str:
    if config.diffusion.variance == "learned":  # The scheduler has to part the output, whatever is made of it.
        return "learned_range"
    return sampling_variance(config)
