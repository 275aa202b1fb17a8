"""The configuration: a frozen dataclass for each section, and Config, which holds them all.

A field is declared once, with its type and range, its default, its documentation and its uses (`fields.py`):

    eta: UnitInterval = option(0.0, "Noise of DDIM: 0 for none, 1 for as much as DDPM.", samplers=("ddim",))

Everything else is derived from that line: the flag --config.sample.eta, the option of Run.sample, the name of a folder
of samples, the protocol of an evaluation, refused combinations, whether a resumed run may change it, and
docs/configuration.md. `checks.py` refuses contradictions; `convert.py` reads and writes ConfigDicts and JSON.
"""

import dataclasses
from typing import Annotated, Literal

from ddpm_jax.config.fields import (
    Count,
    Frames,
    ImageSize,
    Interval,
    Natural,
    NonNegative,
    Positive,
    PositiveShare,
    Seed,
    Share,
    UnitInterval,
    at_least,
    between,
    field,
    option,
    section,
    sides,
)


@dataclasses.dataclass(frozen=True)
class Data:
    """The source of the images, their selection and preparation, and batches (docs/data.md)."""

    source: Literal[
        "auto", "folder", "arrays", "parquet", "webdataset", "celeba", "tfds", "array_record", "digits", "synthetic"
    ] = field(
        "auto",
        "A folder or zip of image files, .npy or .npz arrays, Parquet shards, WebDataset's tars, CelebA as published, "
        "a TensorFlow Datasets set, ArrayRecord shards, the digits of the package, or synthetic discs for tests. "
        '"auto": the source that fits data.path; without a path, the TensorFlow Datasets set in data.name.',
    )
    path: str | None = field(
        None, 'Folder or file to read; with data.source="tfds", the folder of prepared sets.', fixed_by="nothing"
    )
    name: str | None = field(None, 'Name of a TensorFlow Datasets set, such as "mnist".')
    split: str | None = field(
        None, 'Split such as "train", or "all"; None for the training split, or all images if there are no splits.'
    )
    label_column: str | None = field(
        None,
        "Column (of labels.csv or metadata, Parquet, WebDataset's .json, or records) with the classes; None for "
        "the column `label` or `class`, or WebDataset's .cls, if there is one.",
    )
    image_size: ImageSize = field(
        32, "Side, or (height, width), in pixels after crop and resize.", fixed_by="parameters"
    )
    channels: Literal[1, 2, 3, 4] = field(
        3, "1 for greyscale, 2 for greyscale and alpha, 3 for colour, 4 for colour and alpha.", fixed_by="parameters"
    )
    depth: Literal[8, 16] = field(8, "Bits of a level of grey or colour; 16 for greyscale images only.")
    value_range: Interval = field((), "Black and white of an array of floats, such as (0.0, 1.0); () for other images.")
    crop: tuple[int, ...] = field(
        (),
        "(): the largest centred box of the shape of image_size; (side,): a centred square; (height, width): a centred "
        "box; (left, top, right, bottom): that box.",
    )
    resize: Literal["lanczos", "bicubic", "bilinear", "box"] = field(
        "lanczos", "Pillow's resampling filter, which antialiases when it shrinks an image."
    )
    background: tuple[int, ...] = field(
        (255, 255, 255), "Colour behind transparent pixels where alpha is no channel: red, green, blue."
    )
    filter: str | None = field(
        None, 'Use only images that match this expression of attributes and classes, such as "Smiling & ~Eyeglasses".'
    )
    classes: str | None = field(None, 'Use only images of these classes, such as "cats,dogs".')
    first: Count | None = field(None, "Use only this many images, the source's first; may leave classes out.")
    fraction: PositiveShare = field(1.0, "Use only a random fraction of the images.")
    fraction_seed: Seed = field(0, "Seed of that random selection.")
    attributes: str | None = field(
        None, 'Attributes the model is conditioned on, such as "Smiling,Male"; None for all.'
    )
    batch_size: Count = field(128, "Images per step over all devices and microbatches.")
    flip: bool = field(False, "Mirror each training image with probability 1/2 whenever it is used.")
    augment: UnitInterval = field(
        0.0,
        "Probability of scaling, rotating, stretching and translating each training image, and of flipping it upside "
        "down half as often; 0 for none. The network is conditioned on it, so that samples need not show it: for sets "
        "of a few hundred images (Karras et al. 2022, with 0.12 to 0.15). It also flips images left to right; "
        "data.flip adds mirrored images to the set itself.",
        fixed_by="parameters",
    )
    holdout: Share = field(0.05, "Fraction of the images held out for the validation loss, at most 1,024 images.")
    cache: str | None = field(
        None,
        "Folder, or URL such as gs://bucket/cache, for decoded images; None for a per-user folder.",
        fixed_by="nothing",
    )
    stream: bool = field(
        False, "Decode images at every use instead of once into the cache, for sets larger than a disk."
    )

    @property
    def pixel_type(self) -> str:
        """NumPy's type of the pixels, which has `depth` bits."""
        return f"uint{self.depth}"


@dataclasses.dataclass(frozen=True)
class Model:
    """The U-Net (`network/unet.py`)."""

    channels: Count = field(128, "Width of the first stage, a multiple of norm_groups.")
    multipliers: tuple[int, ...] = field(
        (1, 2, 2, 2), "Width of each stage in units of `channels`; between stages the resolution is halved."
    )
    blocks: Count = field(2, "Residual blocks of each stage on the way down; one more on the way up.")
    attention_resolutions: tuple[int, ...] = field(
        (16,), "Resolutions at which every block is followed by self-attention; the middle block always is."
    )
    heads: Count = field(1, "Number of attention heads.")
    head_channels: Count | None = field(None, "Channels of one attention head, instead of a number of heads.")
    dropout: Share = field(0.0, "Dropout rate inside the residual blocks, while training.", fixed_by="training")
    norm_groups: Count = field(32, "Number of groups in every group norm.")
    norm_eps: Positive = field(1e-6, "Added to the variance in every norm.")
    scale_shift: bool = field(
        False, "Let the time embedding scale and shift the normalised features (Nichol & Dhariwal 2021); else add it."
    )
    resampling: Literal["conv", "pool", "residual"] = field(
        "conv", "Downsample by a strided convolution, by average pooling, or inside a residual block (ADM)."
    )
    downsample_padding: Literal[0, 1] = field(
        0, "Zero padding at the top and left of strided convolutions: 0 in Ho et al., 1 in most of diffusers."
    )
    frequency_shift: Literal[0, 1] = field(
        1, "Frequency shift of the time embedding: 1 in Ho et al., 0 in ADM and most of diffusers."
    )
    classes: Natural = field(0, "Number of classes the model is conditioned on; 0 for none.")
    attributes: Natural = field(0, "Number of yes-or-no attributes the model is conditioned on; 0 for none.")
    condition: Literal["none", "low_resolution", "grey", "mask"] = field(
        "none",
        "Image the model is conditioned on, made of each training image: its low resolution (super-resolution), its "
        "grey levels (colouring), or the image with a part masked (inpainting); docs/conditions.md.",
    )
    dtype: Literal["float32", "bfloat16"] = field(
        "float32", "Type of the activations; parameters are always float32.", fixed_by="training"
    )
    remat: bool = field(
        False,
        "Recompute residual blocks in the backward pass: less memory, about a third more time.",
        fixed_by="nothing",
    )
    convolution: Literal["auto", "direct"] = field(
        "auto",
        '3x3 convolutions in float32 on a CPU: "auto" uses Winograd\'s algorithm where it is faster, with about three '
        'times the rounding error of "direct".',
        fixed_by="nothing",
    )


@dataclasses.dataclass(frozen=True)
class Degradation:
    """Conditions of image-to-image models, made from clean images (`diffusion/degradations.py`)."""

    factor: Annotated[int, at_least(2)] = field(
        4, 'Factor by which model.condition="low_resolution" divides height and width.'
    )
    filter: Literal["bicubic", "lanczos", "bilinear", "box"] = field(
        "bicubic", "Pillow's resampling filter that shrinks images to the low resolution."
    )
    noise: Natural = field(
        0,
        "Noise augmentation of the low resolution, for cascades: while training, it is noised to a random step of the "
        "forward process from 0 to this one, on which the network is conditioned, too (Ho et al. 2021); 0 for none.",
    )


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """The noise schedule, the prediction target and the loss (`diffusion/`)."""

    steps: Annotated[int, at_least(2)] = field(
        1000, "T: t runs from 1 (hardly any noise) to T (pure noise).", fixed_by="parameters"
    )
    schedule: Literal["linear", "cosine", "quadratic", "sigmoid"] = field(
        "linear",
        "Noise schedule: linear betas (Ho et al. 2020), cosine (Nichol & Dhariwal 2021), quadratic or sigmoid betas.",
        fixed_by="parameters",
    )
    beta_start: Positive = field(
        1e-4, "First beta of the linear and quadratic schedules, for 1,000 steps.", fixed_by="parameters"
    )
    beta_end: Share = field(
        0.02, "Last beta of the linear and quadratic schedules, for 1,000 steps.", fixed_by="parameters"
    )
    zero_terminal_snr: bool = field(
        False, "Rescale the schedule so that x_T is pure noise (Lin et al. 2023).", fixed_by="parameters"
    )
    prediction: Literal["eps", "x0", "v"] = field(
        "eps",
        'Target of the network: the noise, the clean image, or their mixture "v" (Salimans & Ho 2022).',
        fixed_by="parameters",
    )
    variance: Literal["fixed_small", "fixed_large", "learned"] = field(
        "fixed_large",
        'Variance of the reverse steps; "learned" doubles the output channels of the network.',
        fixed_by="parameters",
    )
    loss: Literal["mse", "mae", "huber"] = field(
        "mse", "Error of a prediction: squared, absolute, or squared up to huber_delta and absolute beyond."
    )
    huber_delta: Positive = field(0.1, "Error at which the Huber loss changes from squared to absolute.")
    weighting: Literal["uniform", "min_snr", "p2"] = field(
        "uniform", "Loss weight of each step: uniform, min-SNR-gamma (Hang et al. 2023), or P2 (Choi et al. 2022)."
    )
    min_snr_gamma: Positive = field(5.0, "Signal-to-noise ratio above which min-SNR-gamma lowers a step's weight.")
    p2_gamma: NonNegative = field(1.0, "Exponent of P2; 0 for uniform weights.")
    p2_k: Positive = field(1.0, "Constant that P2 adds to the signal-to-noise ratio.")
    vlb_weight: NonNegative = field(1e-3, "Factor of the variational bound in the loss if the variance is learned.")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Adam, its learning rate, and the EMA of the parameters."""

    name: Literal["adam", "adamw"] = field("adam", "Adam, or Adam with decoupled weight decay.", fixed_by="optimizer")
    learning_rate: Positive = field(2e-4, "Learning rate after the warm-up.")
    beta1: Share = field(0.9, "Decay of the running mean of gradients.")
    beta2: Share = field(0.999, "Decay of the running mean of squared gradients.")
    eps: Positive = field(1e-8, "Added to the root of the mean of squared gradients.")
    weight_decay: NonNegative = field(0.0, 'Decoupled weight decay of "adamw".')
    clip: NonNegative = field(1.0, "Largest global norm of a gradient; 0 for no clipping.", fixed_by="optimizer")
    warmup: Natural = field(0, "Steps over which the learning rate rises from 0.")
    schedule: Literal["constant", "cosine"] = field(
        "constant", 'Learning rate after the warm-up: "constant", or "cosine" down to 0 at train.steps.'
    )
    ema_decay: Share = field(0.9999, "Decay of the EMA of the parameters, which images are sampled with.")
    ema_warmup: bool = field(
        True, "Raise the decay as (1 + step) / (10 + step) up to ema_decay, to forget the initial parameters."
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """The number of training steps and their computation."""

    steps: Count = field(100_000, "Number of training steps.", fixed_by="nothing")
    accumulate: Count = field(
        1, "Number of microbatches whose gradients are accumulated, for less memory and the same step."
    )
    sharding: Literal["replicated", "fsdp"] = field(
        "replicated",
        'Parameters on every device ("replicated") or divided among the devices ("fsdp").',
        fixed_by="nothing",
    )
    label_dropout: Share = field(0.1, "Probability of dropping an image's label, for classifier-free guidance.")
    condition_dropout: Share = field(
        0.0,
        "Probability of dropping an image's condition and label, for classifier-free guidance by the condition.",
    )
    deterministic: bool = field(
        False,
        "Use only kernels that give the same bits each time, chosen without measuring: slower steps on a GPU, for the "
        "same bits after a resume; no effect on CPUs and TPUs, where they are the same anyway.",
        fixed_by="nothing",
    )
    max_bad_steps: Count = field(
        5, "Training stops after this many consecutive steps with a non-finite loss or gradient.", fixed_by="nothing"
    )


@dataclasses.dataclass(frozen=True)
class Sample:
    """The images that --mode=sample generates."""

    sampler: Literal["ddpm", "ddim", "dpm_solver", "unipc"] = option(
        "ddpm",
        "DDPM (Ho et al. 2020), DDIM (Song et al. 2020), DPM-Solver++ (Lu et al. 2022), UniPC (Zhao et al. 2023).",
    )
    steps: Count | None = option(
        None,
        "Number of sampling steps; None for all of them with DDPM, 50 with DDIM, 20 with DPM-Solver++ and UniPC.",
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
        Literal["leading", "leading_open", "trailing", "linspace", "linspace_open", "quadratic", "quadratic_80"] | None
    ) = option(
        None,
        'Spacing of the sampling steps (see `sampling/timesteps.py`); None for "trailing" with DDPM and DDIM, '
        '"quadratic" with DPM-Solver++ and UniPC.',
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
        "Keep the predicted noise in DDIM's steps where the threshold changed x_0, as diffusers does. By default the "
        "noise is recomputed from x_0, as in Ho et al.'s code and ADM; otherwise strong guidance drifts to grey.",
        samplers=("ddim",),
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
    checkpoint: Natural | None = field(None, "Step of the checkpoint; None for the newest.")
    out: str | None = field(
        None,
        "Folder or URL for the results of --mode=sample and --mode=evaluate, for one run only; None for the workdir. "
        "Needed where the workdir is read-only; refused by --mode=train.",
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
    )
    originals: str | None = field(
        None,
        'Clean images whose conditions "condition" makes as in training (without sample.images), and with which the '
        "results are compared: files separated by commas, or a folder.",
        tasks=("condition",),
        pixels=True,
    )
    mask: str | None = field(
        None,
        'Image that is white where "inpaint", or a model with model.condition="mask", generates.',
        tasks=("condition", "inpaint"),
        pixels=True,
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
    count: Annotated[int, between(2, 10**7)] = field(50_000, "Images generated with each sampler.")
    features: Literal["inception", "inception-2048", "inception-768", "inception-192", "inception-64", "pixels"] = (
        field("inception", 'Features for the comparison of images; "pixels" for tiny images such as digits.')
    )
    weights: str | None = field(
        None, "Weights of Inception, a .safetensors or .pth file with pytorch-fid's names; None to download them."
    )
    reference: str | None = field(
        None, "Statistics to compare with, an .npz with mu and sigma; None for those of the images of data.split."
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


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When checkpoints are written, and which are kept."""

    every: Count = field(5000, "Steps between checkpoints; the first is written by step 100 at the latest.")
    keep: Count = field(3, "Number of newest checkpoints to keep.")
    keep_every: Natural = field(0, "Also keep checkpoints whose step is a multiple of this; 0 for none.")


@dataclasses.dataclass(frozen=True)
class Log:
    """Reports during training, and the number of steps between them (0 for never)."""

    every: Count = field(100, "Steps between points of the curves.")
    validate_every: Natural = field(
        2000, "Steps between measurements of the validation loss with the EMA and the raw parameters."
    )
    preview_every: Natural = field(5000, "Steps between previews, which use the same seeds.")
    preview_count: Count = field(36, "Images of a preview.")
    preview_steps: Count = field(50, "DDIM steps of a preview.")
    preview_samplers: str | None = field(
        "ddim,dpm_solver,unipc", "Samplers to compare in the last preview, as in sample.compare; None for none."
    )
    profile: tuple[int, ...] = field(
        (), "First and last step to trace into <workdir>/plugins/profile for XProf; () for none."
    )
    wandb: bool = field(False, "Also send curves and images to Weights & Biases (requirements-wandb.txt).")
    wandb_project: str = field("ddpm_jax", "Project on Weights & Biases.")


@dataclasses.dataclass(frozen=True)
class Config:
    """The complete configuration of a run, saved as <workdir>/config.json."""

    seed: Seed = field(0, "Seed of the initial parameters, the batches and the noise of training.", fixed_by="training")
    data: Data = section(Data())
    model: Model = section(Model(), fixed_by="parameters")
    degradation: Degradation = section(Degradation(), fixed_by="parameters")
    diffusion: Diffusion = section(Diffusion())
    optimizer: Optimizer = section(Optimizer())
    train: Train = section(Train())
    sample: Sample = section(Sample(), fixed_by="nothing")
    evaluate: Evaluate = section(Evaluate(), fixed_by="nothing")
    checkpoint: Checkpoint = section(Checkpoint(), fixed_by="nothing")
    log: Log = section(Log(), fixed_by="nothing")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return *sides(self.data.image_size), self.data.channels

    @property
    def label_width(self) -> int:
        """Number of classes or attributes that the model is conditioned on; 0 for an unconditional model."""
        return self.model.classes or self.model.attributes

    @property
    def condition_shape(self) -> tuple[int, int, int] | None:
        """Height, width and channels of a condition as pixels, the mask as its last channel; None without one."""
        height, width, channels = self.image_shape
        match self.model.condition:
            case "low_resolution":
                return height // self.degradation.factor, width // self.degradation.factor, channels
            case "grey":
                return height, width, 1
            case "mask":
                return height, width, channels + 1
        return None
