"""Advice on configurations that are valid, but unlikely to be meant: one line each, logged as a warning."""

from ddpm_jax.config.sections import Config


def before_training(config: Config, images: int) -> list[str]:
    """Warnings when training on this many images starts."""
    optimizer, steps = config.optimizer, config.train.steps
    lines = before_sampling(config)
    if images < config.data.batch_size:
        augmented = "" if config.data.augment else ", or configs/small_folder.py, which augments them"
        lines.append(
            f"The number of images, {images}, is below data.batch_size={config.data.batch_size}: a long training "
            f"learns them by heart. Use more images{augmented}."
        )
    if optimizer.warmup > steps:
        lines.append(
            f"optimizer.warmup={optimizer.warmup} is longer than train.steps={steps}, so the learning rate stays below "
            f"optimizer.learning_rate={optimizer.learning_rate}; lower the warm-up."
        )
    # With its warm-up, the decay (1 + step) / (10 + step) averages over a tenth of the steps so far, at most.
    if not optimizer.ema_warmup and (1.0 - optimizer.ema_decay) * steps < 1.0:
        lines.append(
            f"optimizer.ema_decay={optimizer.ema_decay} averages over about {1.0 / (1.0 - optimizer.ema_decay):,.0f} "
            f"steps, more than train.steps={steps}, so the EMA keeps much of the initial parameters; set "
            "optimizer.ema_warmup=True, or lower the decay."
        )
    if config.diffusion.objective == "consistency" and config.train.start_from is None:
        lines.append(
            "diffusion.objective='consistency' tunes a trained model, but train.start_from names none; without one, "
            "training takes far longer."
        )
    return lines


def fits(config: Config, sampler: str) -> bool:
    """Whether a sampler is for a model: consistency sampling for one that was tuned for it, the others for others."""
    return (config.diffusion.objective == "consistency") == (sampler == "consistency")


def before_sampling(config: Config) -> list[str]:
    """Warnings when images are sampled."""
    lines = []
    sampler = config.sample.sampler
    if not fits(config, sampler) and config.sample.task in ("generate", "condition"):
        lines.append(
            f"sample.sampler={sampler!r} is not for this model, which was trained with "
            f"diffusion.objective={config.diffusion.objective!r}, so that images will be poor; use "
            + ("'consistency'." if sampler != "consistency" else "another, or tune the model (docs/sampling.md).")
        )
    trained_without = config.train.label_dropout or config.train.condition_dropout
    compares_labels = config.sample.guidance != 1.0 and config.sample.guide is None and config.label_width
    if not compares_labels or trained_without:
        return lines
    lines.append(
        f"sample.guidance={config.sample.guidance} compares predictions with and without the label, but with "
        "train.label_dropout=0 the model never learns to predict without it; leave out the guidance, or train with "
        "train.label_dropout=0.1."
    )
    return lines


def after_divergence(config: Config) -> str:
    """Changes to try in a configuration whose training has diverged, as one phrase."""
    changes = ["a lower optimizer.learning_rate", "a longer optimizer.warmup"]
    changes.append("a smaller optimizer.clip" if config.optimizer.clip else "optimizer.clip=1")
    if config.model.dtype != "float32":
        changes.append("model.dtype=float32")
    return f"{', '.join(changes[:-1])} or {changes[-1]}"
