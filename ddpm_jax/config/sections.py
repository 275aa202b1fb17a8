"""The configuration: a frozen dataclass for each section, and Config, which holds them all.

A field is declared once, with its type and range, its default, its documentation and its uses (`fields.py`):

    eta: UnitInterval = option(0.0, "Noise of DDIM: 0 for none, 1 for as much as DDPM.", samplers=("ddim",))

Everything else is derived from that line: the flag --config.sample.eta, the option of Run.sample, the name of a folder
of samples, the protocol of an evaluation, refused combinations, whether a resumed run may change it, and
docs/configuration.md. `sampling_sections.py` has the sections about a trained model; `checks.py` refuses
contradictions; `convert.py` reads and writes ConfigDicts and JSON.
"""

import dataclasses
from typing import Annotated, Literal

from ddpm_jax.config.fields import (
    Count,
    EmaWidths,
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
    section,
    sides,
)
from ddpm_jax.config.sampling_sections import Evaluate, Sample


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
        None,
        'Folder or file to read; with data.source="tfds", the folder of prepared sets.',
        fixed_by="nothing",
        place="read",
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
        place="written",
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
    objective: Literal["denoising", "consistency"] = field(
        "denoising",
        'Training objective: the loss above, or "consistency" (Geng et al. 2024), which tunes a trained model '
        "(train.start_from) to sample in one to four steps, and has a loss of its own.",
    )
    consistency_stages: Annotated[int, between(1, 20)] = field(
        8, "Equal stages of consistency tuning; in each, the steps that are compared are half as far apart."
    )


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
    ema_snapshots: Natural = field(
        0,
        "Steps between snapshots of power-function EMAs, from which sample.ema_width rebuilds an EMA of another width "
        "after training (Karras et al. 2023); 0 for none.",
        fixed_by="optimizer",
    )
    ema_widths: EmaWidths = field(
        (0.05, 0.1),
        "Widths of the power-function EMAs in the snapshots: standard deviations divided by the number of updates.",
        fixed_by="optimizer",
    )

    @property
    def power_widths(self) -> tuple[float, ...]:
        """The widths of the power-function EMAs that training updates; empty without snapshots."""
        return self.ema_widths if self.ema_snapshots else ()


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
    start_from: str | None = field(
        None,
        "Model whose parameters a new run starts from: a run's workdir or URL, pretrained:NAME, a safetensors file, or "
        "a diffusers folder; what does not fit is initialised anew. None to initialise all of them.",
        place="read",
    )
    t_sampling: Literal["uniform", "logit_normal", "loss"] = field(
        "uniform",
        "Distribution of the steps t that are trained on: uniform, normal in log-SNR (t_mean, t_std), or by the latest "
        "losses at each t (Nichol & Dhariwal 2021).",
        fixed_by="optimizer",
    )
    t_mean: float = field(0.0, 'Mean of log-SNR for t_sampling="logit_normal".')
    t_std: Positive = field(2.0, 'Standard deviation of log-SNR for t_sampling="logit_normal".')
    t_unbiased: bool = field(
        True,
        "Weight each loss by 1 / (T p_t), so that t_sampling does not change the mean of the gradient; otherwise the "
        "distribution of t is a weighting of the loss, as in Karras et al. 2022.",
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
    wandb: bool = field(False, "Also send curves and images to Weights & Biases (needs the package wandb).")
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
