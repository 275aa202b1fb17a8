"""What can be configured: one frozen dataclass for each section, each field with its type, range and default.

`checks.py` refuses what contradicts itself, `convert.py` reads and writes ConfigDicts and JSON.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple


class Range(NamedTuple):
    """The values a number may take, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


Count = Annotated[int, Range("at least 1", lambda value: value >= 1)]
Natural = Annotated[int, Range("at least 0", lambda value: value >= 0)]
Seed = Annotated[int, Range("0 to 2147483647", lambda value: 0 <= value < 2**31)]
Positive = Annotated[float, Range("more than 0", lambda value: value > 0)]
NonNegative = Annotated[float, Range("at least 0", lambda value: value >= 0)]
Share = Annotated[float, Range("at least 0 and less than 1", lambda value: 0 <= value < 1)]
Frames = Annotated[int, Range("0 to 1000", lambda value: 0 <= value <= 1000)]
Variance = Literal["fixed_small", "fixed_large", "learned"]


@dataclasses.dataclass(frozen=True)
class Data:
    """Where images come from, which of them are taken, and how they become batches (docs/data.md)."""

    source: Literal["auto", "folder", "arrays", "celeba", "tfds", "array_record", "digits", "synthetic"] = "auto"
    """A folder or zip of image files, .npy or .npz arrays, CelebA as it is published, a set of TensorFlow Datasets,
    ArrayRecord shards, the digits inside the package, or made-up discs for quick checks. "auto": whatever data.path
    holds, or without a path the set of TensorFlow Datasets that data.name names."""
    path: str | None = None
    """The folder or file to read; with data.source="tfds" the folder of prepared sets, if not the usual one."""
    name: str | None = None
    """Of a set of TensorFlow Datasets, such as "mnist"."""
    split: str | None = None
    """Such as "train", or "all"; None for the training split where there is one, else for all."""
    image_size: Count = 32
    """Height and width in pixels after crop and resize."""
    channels: Literal[1, 3] = 3
    """1 for greyscale, 3 for colour."""
    crop: tuple[int, ...] = ()
    """(): the largest centred square; (side,): a centred square; (left, top, right, bottom): that box."""
    resize: Literal["lanczos", "bicubic", "bilinear", "box"] = "lanczos"
    """Pillow's filter, which averages over all pixels when it shrinks."""
    background: tuple[int, ...] = (255, 255, 255)
    """The colour behind transparent pixels."""
    filter: str | None = None
    """Only images for which this holds, such as "Smiling & ~Eyeglasses", of attribute and class names."""
    classes: str | None = None
    """Only images of these classes, such as "cats,dogs"."""
    first: Count | None = None
    """Only the first so many images, in the order of the source; may leave classes out."""
    fraction: Annotated[float, Range("more than 0 and at most 1", lambda value: 0 < value <= 1)] = 1.0
    """Only a random share of the images."""
    fraction_seed: Seed = 0
    """Of the choice of that share."""
    attributes: str | None = None
    """The attributes that the model is told, such as "Smiling,Male"; None for all that there are."""
    batch_size: Count = 128
    """Images per step over all devices and accumulated parts."""
    flip: bool = False
    """Mirror half of the training images, drawn anew each time."""
    holdout: Share = 0.05
    """Share of the images kept out of training for the validation loss, at most 1,024 of them."""
    cache: str | None = None
    """Folder, or address such as gs://bucket/cache, for decoded images; None for a per-user folder."""
    stream: bool = False
    """Decode images each time they are needed instead of once into the cache: for sets beyond one disk."""


@dataclasses.dataclass(frozen=True)
class Model:
    """The U-Net (`network/unet.py`)."""

    channels: Count = 128
    """Width of the first stage, a multiple of norm_groups."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Width of each stage in units of `channels`; between stages the image is halved."""
    blocks: Count = 2
    """Residual blocks of each stage on the way down; one more on the way up."""
    attention_resolutions: tuple[int, ...] = (16,)
    """Image sizes at which every block is followed by self-attention; the middle always has it."""
    heads: Count = 1
    """Of attention."""
    head_channels: Count | None = None
    """Channels of one attention head, instead of a number of heads."""
    dropout: Share = 0.0
    """Inside the residual blocks, while training."""
    norm_groups: Count = 32
    """Groups of channels that are normalised together."""
    norm_eps: Positive = 1e-6
    """Added to the variance in every norm."""
    scale_shift: bool = False
    """Let the time scale and shift what a norm gives (Nichol & Dhariwal 2021), rather than be added before it."""
    resampling: Literal["conv", "pool", "residual"] = "conv"
    """Down by a strided convolution, by averaging, or inside a residual block (ADM)."""
    downsample_padding: Literal[0, 1] = 0
    """Zeros above and on the left of what a strided convolution halves: 0 as Ho et al., 1 as many diffusers models."""
    frequency_shift: Literal[0, 1] = 1
    """Of the time embedding: 1 as Ho et al., 0 as ADM and many diffusers models."""
    classes: Natural = 0
    """Number of classes the model is told; 0 for none."""
    attributes: Natural = 0
    """Number of yes-or-no attributes the model is told; 0 for none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the activations, "float32" or "bfloat16"; parameters are always float32."""
    remat: bool = False
    """Compute each residual block again in the backward pass: less memory, about a third more time."""


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """The noise, the target and the loss (`diffusion/`)."""

    steps: Annotated[int, Range("at least 2", lambda value: value >= 2)] = 1000
    """T: t runs from 1 to T, from hardly any noise to nothing else."""
    schedule: Literal["linear", "cosine", "quadratic", "sigmoid"] = "linear"
    """How the noise grows: linear betas (Ho et al. 2020), the cosine of Nichol & Dhariwal 2021, and two more."""
    beta_start: Positive = 1e-4
    """First beta of the linear and quadratic schedules at 1,000 steps."""
    beta_end: Share = 0.02
    """Last beta of these schedules at 1,000 steps."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that nothing of the image is left at t = T (Lin et al. 2023)."""
    prediction: Literal["eps", "x0", "v"] = "eps"
    """What the network predicts: the noise, the clean image, or their mixture "v" (Salimans & Ho 2022)."""
    variance: Variance = "fixed_large"
    """Of the reverse steps: "fixed_small", "fixed_large" or "learned" (which doubles the network's output)."""
    loss: Literal["mse", "mae", "huber"] = "mse"
    """Of a prediction's error: squared, absolute, or squared up to huber_delta and absolute beyond."""
    huber_delta: Positive = 0.1
    """Where the Huber loss turns from squared to absolute."""
    weighting: Literal["uniform", "min_snr", "p2"] = "uniform"
    """Of the steps in the loss: all alike, min-SNR-gamma (Hang et al. 2023), or P2 (Choi et al. 2022)."""
    min_snr_gamma: Positive = 5.0
    """The signal-to-noise ratio above which min-SNR-gamma gives a step less weight."""
    p2_gamma: NonNegative = 1.0
    """Exponent of P2; 0 for none."""
    p2_k: Positive = 1.0
    """What P2 adds to the signal-to-noise ratio."""
    vlb_weight: NonNegative = 1e-3
    """Factor of the variational bound in the loss where the variance is learned."""


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Adam, its learning rate over time, and the moving average of the parameters."""

    name: Literal["adam", "adamw"] = "adam"
    """Adam, or Adam with decoupled weight decay."""
    learning_rate: Positive = 2e-4
    """After the warm-up."""
    beta1: Share = 0.9
    """Decay of the mean of gradients."""
    beta2: Share = 0.999
    """Decay of the mean of squared gradients."""
    eps: Positive = 1e-8
    """Added to the root of that mean."""
    weight_decay: NonNegative = 0.0
    """Decoupled, for "adamw"."""
    clip: NonNegative = 1.0
    """Largest global norm of a gradient; 0 for no clipping."""
    warmup: Natural = 0
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: "constant", or "cosine" down to 0 at train.steps."""
    ema_decay: Share = 0.9999
    """Of the moving average of the parameters, which samples are drawn from."""
    ema_warmup: bool = True
    """Let the decay rise as (1 + step) / (10 + step) towards ema_decay, so that early averages forget the start."""


@dataclasses.dataclass(frozen=True)
class Train:
    """The length and shape of training."""

    steps: Count = 100_000
    """Batches to train on."""
    accumulate: Count = 1
    """Parts that a batch is computed in, one after the other: less memory, the same step."""
    sharding: Literal["replicated", "fsdp"] = "replicated"
    """Parameters on every device ("replicated") or divided among them ("fsdp")."""
    label_dropout: Share = 0.1
    """Share of the images whose label is hidden, which classifier-free guidance needs."""
    max_bad_steps: Count = 5
    """Training stops after this many steps in a row whose loss or gradient is not finite."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """What --mode=sample draws."""

    sampler: Literal["ddpm", "ddim", "dpm_solver", "unipc"] = "ddpm"
    """Ancestral (Ho et al. 2020), DDIM (Song et al. 2020), DPM-Solver++ (Lu et al. 2022), UniPC (Zhao et al. 2023)."""
    steps: Count | None = None
    """Steps of the sampler; None for all of them with DDPM, 50 with DDIM, 20 with DPM-Solver++ and UniPC."""
    spacing: (
        Literal["leading", "leading_open", "trailing", "linspace", "linspace_open", "quadratic", "quadratic_80"] | None
    ) = None
    """Which steps (`sampling/timesteps.py` shows each); None for "leading" with DDPM and DDIM, "quadratic" with
    DPM-Solver++ and UniPC."""
    timesteps: tuple[int, ...] = ()
    """The steps themselves, falling, such as (1000, 500, 100), instead of a number and a spacing."""
    final: Literal["zero", "sigma_min"] = "zero"
    """Where the last step ends: at the clean image ("zero") or at t = 1 ("sigma_min")."""
    order: Annotated[int, Range("1 to 3", lambda value: 1 <= value <= 3)] | None = None
    """Order of DPM-Solver++ (1 to 3) and UniPC (1 or 2); None for 2."""
    eta: Annotated[float, Range("0 (deterministic) to 1 (as noisy as DDPM)", lambda value: 0 <= value <= 1)] = 0.0
    """Noise of DDIM: 0 deterministic, 1 as much as DDPM."""
    variance: Variance | None = None
    """Variance of DDPM's steps, where not diffusion.variance."""
    threshold: Literal["none", "clip", "dynamic"] = "clip"
    """How the predicted clean image is kept in [-1, 1] at every step: "clip", or "dynamic" (Saharia et al. 2022)."""
    percentile: Annotated[float, Range("more than 0 and at most 1", lambda value: 0 < value <= 1)] = 0.995
    """Share of the pixels that dynamic thresholding leaves unclipped."""
    percentile_max: Annotated[float, Range("at least 1", lambda value: value >= 1)] | None = None
    """The most that dynamic thresholding divides by; None for any. With 1, diffusers' default, it is "clip"."""
    keep_eps: bool = False
    """Leave the noise that DDIM adds back as the model gave it, as diffusers does, where the threshold changed x_0.
    By default it follows the image, as Ho et al.'s code and ADM do: otherwise strong guidance drifts into grey."""
    count: Annotated[int, Range("1 to 10000000", lambda value: 1 <= value <= 10**7)] = 64
    """Images to draw."""
    batch_size: Count = 64
    """Images drawn at once over all devices; it does not change what is drawn."""
    seed: Seed = 0
    """Of the noise: image i is a function of the seed and i."""
    label: str | None = None
    """A class name or number, or attribute names or numbers joined by commas; None for each class in turn."""
    guidance: float = 1.0
    """Classifier-free guidance: 1 is the conditional model, 0 ignores the label, more exaggerates it."""
    guidance_interval: tuple[int, ...] = ()
    """Guide only from one step to another, such as (200, 700), in 1..diffusion.steps; () for always."""
    guidance_rescale: Annotated[float, Range("0 (as it is) to 1", lambda value: 0 <= value <= 1)] = 0.0
    """Share of the conditional model's contrast that guided images are given back: phi of Lin et al. 2023."""
    ema: bool = True
    """Sample from the moving average of the parameters rather than from the parameters."""
    checkpoint: Natural | None = None
    """Step of the checkpoint; None for the newest."""
    task: Literal["generate", "compare", "reconstruct", "interpolate", "inpaint", "vary"] = "generate"
    """New images, the same noise through several samplers, or work on given images (`commands/edit.py`)."""
    compare: str = "ddpm,ddim,dpm_solver,unipc"
    """The samplers to compare, each with its number of steps if it is not the default, as in "ddim:20"."""
    images: str | None = None
    """Files joined by commas, or a folder: the images to work on."""
    mask: str | None = None
    """An image that is white where "inpaint" draws."""
    strength: Annotated[float, Range("more than 0 and at most 1", lambda value: 0 < value <= 1)] = 0.5
    """How far "vary" goes back into the noise, as a share of all steps."""
    resamples: Annotated[int, Range("1 to 1000", lambda value: 1 <= value <= 1000)] = 10
    """How often "inpaint" walks each stretch of steps (RePaint)."""
    jump: Count = 10
    """The length of such a stretch, in steps of the sampler."""
    other_seed: Seed = 1
    """Where "interpolate" goes to from sample.seed, if no images are given."""
    strip: Frames = 10
    """Columns of strip.png, from noise to image; 0 for none."""
    gif: Frames = 40
    """Frames of denoising.gif; 0 for none."""
    frames: Literal["x_t", "x0"] = "x_t"
    """What strip and GIF show: the noisy images, or the clean ones that each step predicts."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """What --mode=evaluate measures (docs/evaluation.md)."""

    samplers: str | None = None
    """Those to measure, each with its number of steps if it is not the default, as in "ddpm,ddim:20,ddim:50"; None for
    sample.sampler with all that sample.* says."""
    count: Annotated[int, Range("2 to 10000000", lambda value: 2 <= value <= 10**7)] = 50_000
    """Images that are drawn with each sampler."""
    features: Literal["inception", "inception-2048", "inception-768", "inception-192", "inception-64", "pixels"] = (
        "inception"
    )
    """What images are compared by; "pixels" for tiny ones such as digits."""
    weights: str | None = None
    """Inception's, a .safetensors or .pth file named as pytorch-fid's; None for the standard file, which is fetched."""
    reference: str | None = None
    """Statistics to compare with, an .npz with mu and sigma; None for those of all images of data.split."""
    neighbours: Annotated[int, Range("at least 10", lambda value: value >= 10)] = 10_000
    """At most so many images of each set for KID, precision, recall, density and coverage."""
    every_checkpoint: bool = False
    """Measure all checkpoints that are kept, instead of sample.checkpoint."""
    bound_images: Natural = 0
    """Held-out images whose bits per dimension are measured (diffusion.steps passes each); 0 for none."""
    every: Natural = 0
    """While training, measure light_count images of light_sampler every so many steps; 0 for never."""
    light_count: Annotated[int, Range("at least 10", lambda value: value >= 10)] = 1000
    """Images that are drawn for it."""
    light_sampler: str = "ddim:20"
    """The sampler that draws them."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When checkpoints are written and which are kept."""

    every: Count = 5000
    """Steps between two checkpoints; the first comes after 100 at the latest."""
    keep: Count = 3
    """The newest ones kept."""
    keep_every: Natural = 0
    """Besides, keep those whose step is a multiple of this; 0 for none."""


@dataclasses.dataclass(frozen=True)
class Log:
    """What is reported while training, and how often (in steps; 0 for never)."""

    every: Count = 100
    """Steps between two points of the curves."""
    validate_every: Natural = 2000
    """Steps between two measurements of the validation loss, of the average and of the parameters."""
    preview_every: Natural = 5000
    """Steps between two previews, at the same seeds."""
    preview_count: Count = 36
    """Images of a preview."""
    preview_steps: Count = 50
    """DDIM steps of a preview."""
    preview_samplers: str | None = "ddim,dpm_solver,unipc"
    """Samplers that the preview at the last step compares, as in sample.compare; None for none."""
    profile: tuple[int, ...] = ()
    """Two steps, the first and the last of those that are traced into <workdir>/plugins/profile for XProf."""
    wandb: bool = False
    """Send curves and pictures to Weights & Biases, too (requirements-wandb.txt)."""
    wandb_project: str = "ddpm_jax"
    """The project there."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What --mode=plan reckons with; nothing here changes a run."""

    devices: Count | None = None
    """How many to train on; None for those that are here."""
    memory: Positive | None = None
    """GiB that arrays may take on each device (JAX keeps a quarter of a GPU's free); None for what devices here say."""
    teraflops: Positive | None = None
    """TFLOP/s that each device keeps up in a training step; None to time steps on a device here."""
    price: Positive | None = None
    """Of one device for an hour, in any currency."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run depends on; saved as <workdir>/config.json."""

    seed: Seed = 0
    """Of the first parameters, the batches and the noise of training."""
    data: Data = Data()
    model: Model = Model()
    diffusion: Diffusion = Diffusion()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    sample: Sample = Sample()
    evaluate: Evaluate = Evaluate()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    plan: Plan = Plan()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.data.image_size, self.data.image_size, self.data.channels

    @property
    def label_width(self) -> int:
        """Number of classes or attributes that the model is conditioned on; 0 for an unconditional model."""
        return self.model.classes or self.model.attributes
