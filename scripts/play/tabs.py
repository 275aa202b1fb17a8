"""The tabs of the page, one function each: their components and event handlers."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr

from ddpm_jax import UserError
from ddpm_jax.config.advice import fits
from ddpm_jax.generation.requests import sampler_and_steps
from scripts.play.components import (
    brush_of,
    build_canvas,
    build_result,
    canvas_size_of,
    canvas_value,
    component_updates,
    run_on_device,
    run_until_stopped,
    start_and_stop,
)
from scripts.play.controls import SamplerControls, SharedControls
from scripts.play.image_to_image import Given, Originals, describe_psnr, given_original, given_upload, picture_beside
from scripts.play.model import decode_upload, inpaint_brushed, iter_samplers, stream_comparison, stream_samples

COMPARISONS = (
    *("ddim:50", "ddim:10", "unipc:10", "ddpm", "ddim:100", "ddim:20", "dpm_solver:20", "dpm_solver:10", "heun:18"),
    *("consistency:1", "consistency:2", "consistency:4"),
)
"""Samplers to choose from; a model offers those that fit it."""
INITIALLY_SELECTED = 3
"""Number of COMPARISONS that are selected when the page opens."""
MAX_IMAGES = 64
MAX_RESULTS = 8
HINTS = {
    "low_resolution": "It is first made {factor} times smaller; one of {width}x{height} pixels is enlarged as it is.",
    "grey": "It is first made grey.",
    "mask": "Brush over the pixels to paint again.",
}
"""What to do on the tab of an image-to-image model, by model.condition."""


def sample_tab(shared: SharedControls) -> None:
    """Samples new images."""
    with gr.Column(min_width=280):
        chosen = SamplerControls(shared.model.config, 16, MAX_IMAGES)
        buttons = start_and_stop("Sample")
    outputs = build_result("samples")

    def sample(*values: Any) -> Iterator[Any]:
        run, options, rest = shared.parse(values)
        given, count, view = chosen.parse(rest)
        steps = run.iter_steps(count, **options, **given)
        yield from component_updates(stream_samples(steps, view, shared.folder))

    run_until_stopped(buttons, sample, [*shared.controls, *chosen.controls], outputs)


def compare_tab(shared: SharedControls) -> None:
    """Several samplers from the same noise."""
    config, available = shared.model.config, []
    for name in COMPARISONS:
        sampler, steps = sampler_and_steps(name, "The comparison")
        if fits(config, sampler) and (steps or 1) <= config.diffusion.steps:
            available.append(name)
    with gr.Column(min_width=280):
        gr.Markdown("Several samplers from the same noise, one row each.")
        names = gr.Dropdown(
            available,
            value=available[:INITIALLY_SELECTED],
            multiselect=True,
            allow_custom_value=True,
            label="Samplers",
            info=f"As sampler:steps, such as {available[0]}",
            elem_id="names",
        )
        count = gr.Slider(1, 12, 8, step=1, label="Images")
        buttons = start_and_stop("Compare")
    outputs = build_result("comparison", gif=False)

    def compare(*values: Any) -> Iterator[Any]:
        run, options, (names, count) = shared.parse(values)
        samplers = iter_samplers(run, names, count, **options)
        yield from component_updates(stream_comparison(samplers, shared.folder), gif=False)

    run_until_stopped(buttons, compare, [*shared.controls, names, count], outputs)


def inpaint_tab(shared: SharedControls) -> None:
    """Samples the brushed pixels of an image again, with a model that was trained without masks."""
    total, canvas_size = shared.model.config.diffusion.steps, canvas_size_of(shared.model.config)
    image = gr.State(None)
    with gr.Column(min_width=280):
        condition = ", conditioned on the class or attributes selected above" if shared.conditional else ""
        gr.Markdown(f"Sample or upload an image, and brush over the pixels to sample again{condition}.")
        with gr.Row():
            sample_one = gr.Button("Sample one", elem_id="sample-one", min_width=100)
            upload = gr.UploadButton("Upload one", file_types=["image"], type="binary", elem_id="upload", min_width=100)
        canvas = build_canvas(canvas_size)
        steps = gr.Slider(1, total, min(50, total), step=1, label="DDPM steps")
        resamples = gr.Slider(1, 20, 5, step=1, label="Resamples", info="How often each step is repeated (RePaint)")
        count = gr.Slider(1, 16, 4, step=1, label="Images")
        buttons = start_and_stop("Inpaint")
    outputs = build_result("inpainted")

    def sample_image(*values: Any) -> tuple[Any, Any]:
        run, options, _ = shared.parse(values)
        if run.config.model.classes and options["label"] is None:
            options["label"] = run.names[options["seed"] % run.config.model.classes]
        (image,) = run.sample(1, sampler="unipc", steps=min(20, total), **options)
        return image, canvas_value(image, canvas_size)

    def load_upload(raw: bytes) -> tuple[Any, Any]:
        image = decode_upload(raw, shared.model.config)
        return image, canvas_value(image, canvas_size)

    def inpaint(*values: Any) -> Iterator[Any]:
        run, options, (image, canvas, steps, resamples, count) = shared.parse(values, in_turn=False)
        if image is None:
            raise UserError("There is no image yet; sample or upload one.")
        options |= {"count": count, "steps": steps, "resamples": resamples}
        inpainting = inpaint_brushed(run, image, brush_of(canvas), **options)
        yield from component_updates(stream_samples(inpainting, "x_t", shared.folder))

    run_on_device(sample_one.click, sample_image, shared.controls, [image, canvas])
    run_on_device(upload.upload, load_upload, [upload], [image, canvas])
    inputs = [*shared.controls, image, canvas, steps, resamples, count]
    run_until_stopped(buttons, inpaint, inputs, outputs)


def image_to_image_tab(shared: SharedControls) -> None:
    """The images of an image-to-image model for a condition."""
    config = shared.model.config
    noise = config.degradation.noise
    with gr.Column(min_width=280):
        state, canvas = _image_controls(shared)
        condition_noise = gr.Slider(
            0, max(noise, 1), 0, step=1, label="Noise of the condition", info="For generated ones", visible=noise > 0
        )
        chosen = SamplerControls(config, 4, MAX_RESULTS)
        buttons = start_and_stop("Generate")
    outputs = build_result("results")

    def generate(*values: Any) -> Iterator[Any]:
        run, options, (given, painted, noised_to, *rest) = shared.parse(values, in_turn=False)
        sampler, count, view = chosen.parse(rest)
        if given is None:
            raise UserError("There is no image yet; upload or take one.")
        if config.model.condition == "mask":
            given = given.masked(brush_of(painted), config)
        options |= sampler | ({"condition_noise": noised_to} if noise else {})
        steps = run.iter_steps(count, condition=given.condition, **options)
        shown = partial(picture_beside, given, config=config)
        described = partial(describe_psnr, original=given.original)
        yield from component_updates(stream_samples(steps, view, shared.folder, shown, described))

    run_until_stopped(buttons, generate, [*shared.controls, state, canvas, condition_noise, *chosen.controls], outputs)


def _image_controls(shared: SharedControls) -> tuple[gr.State, gr.ImageEditor | gr.Image]:
    """The choice of an image: a state with a Given or None, and the component that shows it and takes the brush."""
    config = shared.model.config
    masks, originals, canvas_size = config.model.condition == "mask", Originals(config), canvas_size_of(config)
    low_height, low_width, _ = config.condition_shape or config.image_shape
    hint = "Upload an image, or take that of the data set whose number is the seed. " + HINTS[config.model.condition]
    gr.Markdown(hint.format(factor=config.degradation.factor, width=low_width, height=low_height))
    with gr.Row():
        upload = gr.UploadButton("Upload one", file_types=["image"], type="binary", elem_id="upload", min_width=100)
        take = gr.Button("Take one", elem_id="take", min_width=100)
    if masks:
        canvas = build_canvas(canvas_size)
    else:
        canvas = gr.Image(label="Condition", interactive=False, elem_classes="picture", elem_id="condition")
    state = gr.State(None)

    def show(given: Given) -> tuple[Given, Any]:
        value = canvas_value(given.shown(config)[0], canvas_size)
        return given, value if masks else value["background"]

    def take_original(*values: Any) -> tuple[Given, Any]:
        _, options, _ = shared.parse(values)
        return show(given_original(originals[options["seed"]], config))

    run_on_device(upload.upload, lambda raw: show(given_upload(raw, config)), [upload], [state, canvas])
    run_on_device(take.click, take_original, shared.controls, [state, canvas])
    return state, canvas
