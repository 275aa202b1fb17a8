"""The model card of an exported folder: what the model is, how diffusers samples from it, its whole configuration.

It also says what a UNet2DModel does not hold: how the condition of an image-to-image model is made.
"""

import shlex
from pathlib import Path

from ddpm_jax.builders import DEFAULT_STEPS
from ddpm_jax.config import Config, flatten, to_json, without_folders
from ddpm_jax.interop.diffusers_options import has_null_class
from ddpm_jax.interop.diffusers_scheduler import SAMPLERS, scheduler_class


def is_pipeline(config: Config) -> bool:
    """Whether diffusers has a pipeline that samples from the model; it has none for conditional ones."""
    return not config.model.classes and config.condition_shape is None


def condition_flags(config: Config) -> list[str]:
    """The flags that scripts/import_diffusers.py needs to import the condition."""
    names = ["model.condition"]
    names += ["degradation.factor", "degradation.filter"] if config.model.condition == "low_resolution" else []
    names += ["train.condition_dropout"] if config.train.condition_dropout else []
    return [f"--config.{name}={flatten(config)[name]}" for name in names]


def model_card(config: Config, step: int, images: int | None, caption: str | None) -> str:
    """README.md of an exported model: a summary, code to sample from it, the configuration; caption: of its grid."""
    data, diffusion, model = config.data, config.diffusion, config.model
    source = data.name or (Path(data.path).name if data.path else data.source)
    if not step:
        source = "trained elsewhere"
    shape = "x".join(map(str, config.image_shape))
    rows = {
        "images": f"{source}, {shape}" + (f", {images:,}" if images else ""),
        "training steps": f"{step:,} of {data.batch_size} images",
        "network": f"UNet2DModel, {model.channels} channels x {model.multipliers}, {model.blocks} blocks",
        "noise": f"{diffusion.schedule}, {diffusion.steps} steps, predicts {diffusion.prediction}",
        "parameters": "EMA" if config.sample.ema else "as trained",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    picture = f"![{caption}](grid.png)\n\n{caption}.\n\n" if caption else ""
    return CARD.format(
        table=table,
        picture=picture,
        use=_use(config),
        kind=_kind(config),
        origin="It was trained" if step else "It was trained elsewhere and imported",
        config=to_json(without_folders(config)).rstrip(),
    )


def _kind(config: Config) -> str:
    if config.condition_shape:
        return "image-to-image"
    return "class-conditional" if config.model.classes else "unconditional-image-generation"


def _use(config: Config) -> str:
    """Code that samples from a model, with the number of steps that suits it."""
    scheduler, total = scheduler_class(config), config.diffusion.steps
    steps = min(DEFAULT_STEPS.get(SAMPLERS[scheduler], total), total)
    use = PIPELINE_USE.format(steps=steps) if is_pipeline(config) else _unet_use(config, scheduler, steps)
    few = "\n\nThe model was tuned for sampling in one to four steps, with consistency sampling (`LCMScheduler`)."
    return use + (few if scheduler == "LCMScheduler" else "")


def _unet_use(config: Config, scheduler: str, steps: int) -> str:
    """Code that samples from a conditional model."""
    model, (height, width, channels) = config.model, config.image_shape
    given, inputs, labels, last, notes = "", "x", "", "", ""
    if model.classes:
        null = f"; {model.classes} means no label" if has_null_class(config) else ""
        names = f"Classes 0 to {model.classes - 1}, which labels.json names{null}."
        given += f"labels = torch.arange(4) % {model.classes}  # {names}\n"
        labels = ", class_labels=labels"
    if config.condition_shape:
        given += _condition_lines(config)
        inputs = "torch.cat([x, condition], dim=1)"
        command = shlex.join(["python", "scripts/import_diffusers.py", "this/folder", "RUN", *condition_flags(config)])
        notes = f"\n\n`{command}` imports it again: a UNet2DModel does not hold what its further channels are."
        if config.train.condition_dropout:
            notes += " It was also trained with zeros as the condition, for classifier-free guidance."
    if model.condition == "mask":
        last = "x = torch.where(mask > 0, x, image)  # Known pixels stay as they are.\n"
    shape = {"channels": channels, "height": height, "width": width}
    code = {"given": given, "inputs": inputs, "labels": labels, "last": last}
    return UNET_USE.format(**shape, **code, scheduler=scheduler, steps=steps) + notes


def _condition_lines(config: Config) -> str:
    """Code that makes the condition."""
    (height, width, channels), degradation = config.image_shape, config.degradation
    if config.model.condition == "low_resolution":
        low = f"[4, {channels}, {height // degradation.factor}, {width // degradation.factor}]"
        return (
            f"low = ...  # {low} in [-1, 1]: images shrunk by a factor of {degradation.factor}, {degradation.filter}.\n"
            f'enlarge = {{"size": ({height}, {width}), "mode": "bicubic", "antialias": True}}  # As Pillow does.\n'
            "condition = torch.nn.functional.interpolate(low, **enlarge)\n"
        )
    if config.model.condition == "grey":
        return f"condition = ...  # [4, 1, {height}, {width}] in [-1, 1]: grey, 0.299 R + 0.587 G + 0.114 B.\n"
    return (
        f"image = ...  # [4, {channels}, {height}, {width}] in [-1, 1].\n"
        f"mask = ...  # [4, 1, {height}, {width}]: 1 where the image is painted, -1 where it is known.\n"
        "condition = torch.cat([torch.where(mask > 0, 0.0, image), mask], dim=1)\n"
    )


CARD = """\
---
library_name: diffusers
tags:
- ddpm
- {kind}
---
# A denoising diffusion model

{picture}{table_head}{table}

## Use

{use}

## The whole configuration

{origin} with ddpm_jax and this configuration:

```json
{config}
```
""".replace("{table_head}", "| | |\n|---|---|\n")

PIPELINE_USE = """\
```python
from diffusers import DDPMPipeline

images = DDPMPipeline.from_pretrained("this/folder")(batch_size=4, num_inference_steps={steps}).images
```"""

UNET_USE = """\
```python
import torch
from diffusers import {scheduler}, UNet2DModel

unet, scheduler = UNet2DModel.from_pretrained("this/folder"), {scheduler}.from_pretrained("this/folder")
{given}x = torch.randn(4, {channels}, {height}, {width})
scheduler.set_timesteps({steps})
with torch.no_grad():
    for t in scheduler.timesteps:
        x = scheduler.step(unet({inputs}, t{labels}).sample, t, x).prev_sample
{last}```"""
