"""Sections of the configuration about a trained model: the images that it generates, and their measurement.

`sections.py` explains how a field is declared, and has the other sections.
"""

import dataclasses
from typing import Annotated, Literal

from ddpm_jax.config.fields import (
    Count,
    EmaWidth,
    EmaWidths,
    Frames,
    Natural,
    PositiveShare,
    Seed,
    UnitInterval,
    at_least,
    between,
    field,
    option,
)


@dataclasses.dataclass(frozen=True)
class Sample:
    """The images that --mode=sample generates."""

    sampler: Literal["ddpm", "ddim", "dpm_solver", "unipc", "heun", "consistency"] = option(
        "ddpm",
        "DDPM (Ho et al. 2020), DDIM (Song et al. 2020), DPM-Solver++ (Lu et al. 2022), UniPC (Zhao et al. 2023), "
        "Heun (Karras et al. 2022) or, for a model that was tuned for it, consistency sampling (Song et al. 2023).",
    )
    steps: Count | None = option(
        None,
        "Number of sampling steps; None for all of them with DDPM, 50 with DDIM, 20 with DPM-Solver++ and UniPC, 18 "
        "with Heun, which evaluates the network twice in each but the last, and 2 with consistency sampling.",
        per_sampler=True,
    )
    timesteps: tuple[int, ...] = option(
        (),
        "Explicit sampling steps, descending, such as (1000, 500, 100), instead of a number and a spacing.",
        per_sampler=True,
    )
    order: Annotated[int, between(1, 3)] | None = option(
        None, "Order of DPM-Solver++ (1 to 3) and UniPC (1 or 2); None for 2.", samplers=("dpm_solver", "unipc")
    )
    eta: UnitInterval = option(
        0.0, "Noise of DDIM: 0 for none (deterministic), 1 for as much as DDPM.", samplers=("ddim",)
    )
    spacing: (
        Literal[
            "leading", "leading_open", "trailing", "linspace", "linspace_open", "quadratic", "quadratic_80", "karras"
        ]
        | None
    ) = option(
        None,
        'Spacing of the sampling steps (see `sampling/timesteps.py`); None for "trailing" with DDPM, DDIM and '
        'consistency sampling, "quadratic" with DPM-Solver++ and UniPC, "karras" with Heun.',
        per_sampler=True,
        preview=True,
    )
    final: Literal["zero", "sigma_min"] = option(
        "zero", 'End of the last step: the clean image ("zero") or t = 1 ("sigma_min").'
    )
    variance: Literal["fixed_small", "fixed_large", "learned"] | None = option(
        None, "Variance of DDPM's steps; None for diffusion.variance.", samplers=("ddpm",)
    )
    threshold: Literal["none", "clip", "dynamic"] = option(
        "clip",
        'Restricts the predicted clean image to [-1, 1] at every step: "clip", or "dynamic" (Saharia et al. 2022).',
        preview=True,
        bound=True,
    )
    percentile: PositiveShare = option(
        0.995, "Fraction of the pixels that dynamic thresholding leaves unclipped.", preview=True, bound=True
    )
    percentile_max: Annotated[float, at_least(1)] | None = option(
        None,
        'Largest divisor of dynamic thresholding; None for no limit; 1, the default of diffusers, equals "clip".',
        preview=True,
        bound=True,
    )
    keep_eps: bool = option(
        False,
        "Keep the predicted noise in the steps of DDIM and Heun where the threshold changed x_0, as diffusers' DDIM "
        "does. By default the noise is recomputed from x_0, as in Ho et al.'s code and ADM; otherwise strong guidance "
        "drifts to grey.",
        samplers=("ddim", "heun"),
    )
    count: Annotated[int, between(1, 10**7)] = field(64, "Number of images.")
    batch_size: Count = field(64, "Images generated at a time over all devices; does not change them.", option=True)
    seed: Seed = option(0, "Seed of the noise: image i depends on the seed and i alone.", preview=True, bound=True)
    label: str | None = option(
        None,
        "Class name or number, or attribute names or numbers separated by commas; None for each class in turn, or, "
        "where images are made of others, for no label.",
    )
    guidance: float = option(
        1.0,
        "Classifier-free guidance: 1 is the conditional model, 0 ignores the label (and the condition, with "
        "train.condition_dropout), more exaggerates it.",
    )
    guide: str | None = option(
        None,
        "A worse model, with which guidance compares instead of the model without a label (autoguidance, Karras et al. "
        '2024): the workdir or URL of another run, pretrained:NAME, or "checkpoint:5000" or "ema_width:0.1" of '
        "this one.",
        place="read",
    )
    guidance_interval: tuple[int, ...] = option(
        (), "Guide only between two steps, such as (200, 700), in 1..diffusion.steps; () for all steps."
    )
    guidance_rescale: UnitInterval = option(
        0.0, "Fraction of the conditional model's contrast restored in guided images: phi of Lin et al. 2023."
    )
    condition_noise: Natural = option(
        0,
        "Step of the forward process to which the low resolution is noised, up to degradation.noise; in cascades it "
        "hides the faults of generated images.",
        preview=True,
        bound=True,
    )
    ema: bool = field(True, "Sample with the EMA parameters rather than the raw parameters.", pixels=True, bound=True)
    ema_width: EmaWidth | None = field(
        None,
        "Width of the EMA to rebuild from the snapshots of training (optimizer.ema_snapshots), at a step that has one; "
        "None for the EMA of optimizer.ema_decay.",
        pixels=True,
        bound=True,
    )
    checkpoint: Natural | None = field(None, "Step of the checkpoint; None for the newest.")
    out: str | None = field(
        None,
        "Folder or URL for the results of --mode=sample and --mode=evaluate, for one run only; None for the workdir. "
        "Needed where the workdir is read-only; refused by --mode=train.",
        place="written",
    )
    task: Literal["generate", "condition", "compare", "reconstruct", "interpolate", "inpaint", "vary"] = field(
        "generate",
        "New images, images for given conditions, a comparison of samplers from the same noise, or edits of images "
        "(`commands/edit.py`).",
    )
    cascade: str | None = field(
        None,
        "Workdirs of further runs, separated by commas: the images of each run are the condition of the next.",
        tasks=("generate",),
        pixels=True,
        place="read",
    )
    strip: Frames = field(
        10, "Columns of strip.png, from noise to image; 0 for none.", tasks=("generate",), ignored=True, pixels=True
    )
    gif: Frames = field(40, "Frames of denoising.gif; 0 for none.", tasks=("generate",), ignored=True, pixels=True)
    frames: Literal["x_t", "x0"] = field(
        "x_t",
        "Content of the strip and the GIF: the noisy images, or the clean images predicted at each step.",
        tasks=("generate",),
        pixels=True,
    )
    compare: str = field(
        "ddpm,ddim,dpm_solver,unipc",
        'Samplers to compare, each with an optional number of steps, as in "ddim:20".',
        tasks=("compare",),
        pixels=True,
    )
    images: str | None = field(
        None,
        "Images to edit, or conditions: files separated by commas, or a folder.",
        tasks=("condition", "reconstruct", "interpolate", "inpaint", "vary"),
        pixels=True,
        place="read",
    )
    originals: str | None = field(
        None,
        'Clean images whose conditions "condition" makes as in training (without sample.images), and with which the '
        "results are compared: files separated by commas, or a folder.",
        tasks=("condition",),
        pixels=True,
        place="read",
    )
    mask: str | None = field(
        None,
        'Image that is white where "inpaint", or a model with model.condition="mask", generates.',
        tasks=("condition", "inpaint"),
        pixels=True,
        place="read",
    )
    resamples: Annotated[int, between(1, 1000)] = option(
        10, 'Number of times that "inpaint" repeats each jump (RePaint).', tasks=("inpaint",)
    )
    jump: Count = option(10, "Length of RePaint's jumps in sampling steps.", tasks=("inpaint",))
    strength: PositiveShare = field(
        0.5, 'Fraction of all steps by which "vary" noises an image.', tasks=("vary",), pixels=True
    )
    other_seed: Seed = field(
        1,
        'Seed at the end of "interpolate" without images; sample.seed is at its start.',
        tasks=("interpolate",),
        pixels=True,
    )


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """The measurements of --mode=evaluate (docs/evaluation.md)."""

    samplers: str | None = field(
        None,
        'Samplers to evaluate, each with an optional number of steps, as in "ddpm,ddim:20,ddim:50"; None for '
        "sample.sampler with the other settings of sample.",
    )
    ema_widths: EmaWidths = field((), "Values of sample.ema_width to evaluate; () for sample.ema_width alone.")
    count: Annotated[int, between(2, 10**7)] = field(50_000, "Images generated with each sampler.")
    features: Literal["inception", "inception-2048", "inception-768", "inception-192", "inception-64", "pixels"] = (
        field("inception", 'Features for the comparison of images; "pixels" for tiny images such as digits.')
    )
    weights: str | None = field(
        None,
        "Weights of Inception, a .safetensors or .pth file with pytorch-fid's names; None to download them.",
        place="read",
    )
    reference: str | None = field(
        None,
        "Statistics to compare with, an .npz with mu and sigma; None for those of the images of data.split.",
        place="read",
    )
    condition_split: str | None = field(
        None,
        'Split of the data whose images the conditions of an image-to-image model are made of, such as "test"; None '
        "for the held-out images.",
    )
    neighbours: Annotated[int, at_least(10)] = field(
        10_000, "Largest number of images of each set for KID, precision, recall, density and coverage."
    )
    every_checkpoint: bool = field(False, "Evaluate every kept checkpoint instead of sample.checkpoint.")
    bound_images: Natural = field(
        0, "Held-out images for bits per dimension (diffusion.steps network evaluations each); 0 for none."
    )
    every: Natural = field(
        0, "Training steps between light evaluations of light_count images by light_sampler; 0 for none."
    )
    light_count: Annotated[int, at_least(10)] = field(1000, "Images of a light evaluation.")
    light_sampler: str = field("ddim:20", "Sampler of a light evaluation.")
