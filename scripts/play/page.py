"""The playground's page: its components and event handlers. The sampling itself is in `model.py`."""

import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from jax.errors import JaxRuntimeError

from ddpm_jax import Run, UserError
from ddpm_jax.builders import DEFAULT_STEPS
from ddpm_jax.reporting.images import Picture, as_shown
from scripts.play.model import (
    DOWNLOADS_KEPT_S,
    Model,
    Update,
    decode_upload,
    inpaint_brushed,
    iter_samplers,
    stream_comparison,
    stream_samples,
)

CSS = """
.gradio-container {width: 100% !important; max-width: 1100px !important; margin: auto}
.picture img {image-rendering: pixelated}
"""
LAUNCH_OPTIONS = {
    "max_file_size": "20mb",
    "theme": gr.themes.Default(font=("system-ui", "sans-serif")),
    "css": CSS,
    "footer_links": [],
}
SAMPLERS = {"DDPM": "ddpm", "DDIM": "ddim", "DPM-Solver++": "dpm_solver", "UniPC": "unipc"}
VIEWS = [("noisy images (x_t)", "x_t"), ("predicted clean images (x_0)", "x0")]
COMPARISONS = ("ddim:50", "ddim:10", "unipc:10", "ddpm", "ddim:100", "ddim:20", "dpm_solver:20", "dpm_solver:10")
INITIALLY_SELECTED = 3
"""Number of COMPARISONS that are selected when the page opens."""
IN_TURN = "each in turn"
MAX_IMAGES = 64
MAX_SEED = 2**31 - 1
CANVAS_PX = 384
"""Maximum side of the canvas, in pixels, for images smaller than that."""
PICTURE_PX = 480
"""Small pictures are enlarged by the largest whole factor that keeps their longer side within this many pixels."""
MESSAGE_S = 6
"""Time for which a message stays on the page."""
MAX_QUEUE = 20
"""Maximum number of visitors who wait."""


def build_page(model: Model, folder: Path) -> gr.Blocks:
    """The page for a model. folder: receives the files for download."""
    with gr.Blocks(title="ddpm_jax playground", analytics_enabled=False, delete_cache=(600, DOWNLOADS_KEPT_S)) as page:
        shared = SharedControls(model, folder)
        with gr.Tab("Sample"), gr.Row():
            _sample_tab(shared)
        with gr.Tab("Compare"), gr.Row():
            _compare_tab(shared)
        with gr.Tab("Inpaint"), gr.Row():
            _inpaint_tab(shared)
    return page.queue(max_size=MAX_QUEUE)


class SharedControls:
    """The controls above the tabs, which apply to all of them: checkpoint, seed, label and guidance."""

    def __init__(self, model: Model, folder: Path):
        self.model, self.folder = model, folder
        self.conditional = bool(model.config.model.classes or model.config.model.attributes)
        title = gr.Markdown(self._title(model.steps[0], True))
        with gr.Row():
            checkpoint = gr.Dropdown(model.steps, value=model.steps[0], label="Checkpoint", elem_id="checkpoint")
            ema = gr.Checkbox(True, label="EMA parameters", visible=model.has_raw_params, elem_id="ema")
            seed = gr.Number(0, label="Seed", precision=0, elem_id="seed")
            new_seed = gr.Button("New seed", elem_id="new-seed", min_width=150)
        new_seed.click(lambda: random.randint(0, MAX_SEED), None, seed)
        label, guidance = self._label_controls()
        self.controls = [checkpoint, ema, seed, label, guidance]
        for control in (checkpoint, ema):
            _run_on_device(control.change, self._title, [checkpoint, ema], [title])

    def _title(self, step: int, ema: bool) -> str:
        return f"# ddpm_jax playground\n{self.model.description(step, ema)}"

    def _label_controls(self) -> tuple[Any, Any]:
        """The label and its guidance; hidden if the model is unconditional."""
        names = list(self.model.names)
        with gr.Row(visible=self.conditional):
            if self.model.config.model.attributes:
                label = gr.Dropdown(names, value=[], multiselect=True, label="Attributes", elem_id="label")
            else:
                label = gr.Dropdown([IN_TURN, *names], value=IN_TURN, label="Class", elem_id="label")
            guidance = gr.Slider(
                0, 8, 1, step=0.1, label="Guidance (0: ignores the label, 1: as trained)", elem_id="guidance"
            )
        return label, guidance

    def parse(self, values: Sequence[Any], *, in_turn: bool = True) -> tuple[Run, dict[str, Any], Sequence[Any]]:
        """The run, the sampling options of these controls, and the remaining values, from other controls.

        in_turn: whether sampling without a label conditions on each class in turn, rather than on none.
        """
        checkpoint, ema, seed, label, guidance, *rest = values
        if seed is None:
            raise UserError("The seed is empty; expected a whole number, 0 or more.")
        options = {"seed": seed}
        if self.conditional:
            options |= {"label": _label(label)}
            # Without a label there is nothing to guide towards.
            if options["label"] is not None or (in_turn and self.model.config.model.classes):
                options |= {"guidance": guidance}
        return self.model.run(checkpoint, ema), options, rest


def _label(selected: str | list[str]) -> str | None:
    if isinstance(selected, list):
        return ",".join(selected) or None
    return None if selected == IN_TURN else selected


def _sample_tab(shared: SharedControls) -> None:
    total = shared.model.config.diffusion.steps
    with gr.Column(min_width=280):
        sampler = gr.Dropdown(list(SAMPLERS.items()), value="ddim", label="Sampler", elem_id="sampler")
        steps = gr.Slider(1, total, _default_steps("ddim", total), step=1, label="Steps", elem_id="steps")
        eta = gr.Slider(0, 1, 0, step=0.05, label="eta", info="0: deterministic, 1: as noisy as DDPM", elem_id="eta")
        count = gr.Slider(1, MAX_IMAGES, 16, step=1, label="Images", elem_id="count")
        view = gr.Radio(VIEWS, value="x_t", label="Show while sampling", elem_id="view")
        start, stop = _start_and_stop("Sample")
    result = _result("samples")

    def sample(*values: Any) -> Iterator[Any]:
        run, options, (sampler, steps, eta, count, view) = shared.parse(values)
        options |= {"sampler": sampler, "steps": steps} | ({"eta": eta} if sampler == "ddim" else {})
        yield from _component_updates(stream_samples(run.iter_steps(count, **options), view, shared.folder))

    event = _run_on_device(start.click, sample, [*shared.controls, sampler, steps, eta, count, view], result)
    stop.click(lambda: "Stopped.", None, result[1], cancels=[event])
    sampler.change(lambda name: (_default_steps(name, total), gr.update(visible=name == "ddim")), sampler, [steps, eta])


def _compare_tab(shared: SharedControls) -> None:
    total = shared.model.config.diffusion.steps
    available = [name for name in COMPARISONS if int(name.partition(":")[2] or 1) <= total]
    with gr.Column(min_width=280):
        gr.Markdown("Several samplers from the same noise, one row each.")
        names = gr.Dropdown(
            available,
            value=available[:INITIALLY_SELECTED],
            multiselect=True,
            allow_custom_value=True,
            label="Samplers",
            info="As sampler:steps, such as ddim:25",
            elem_id="names",
        )
        count = gr.Slider(1, 12, 8, step=1, label="Images")
        start, stop = _start_and_stop("Compare")
    result = _result("comparison", gif=False)

    def compare(*values: Any) -> Iterator[Any]:
        run, options, (names, count) = shared.parse(values)
        samplers = iter_samplers(run, names, count, **options)
        yield from _component_updates(stream_comparison(samplers, shared.folder), gif=False)

    event = _run_on_device(start.click, compare, [*shared.controls, names, count], result)
    stop.click(lambda: "Stopped.", None, result[1], cancels=[event])


def _inpaint_tab(shared: SharedControls) -> None:
    total, (height, width, _) = shared.model.config.diffusion.steps, shared.model.config.image_shape
    factor = max(1, CANVAS_PX // max(height, width))
    canvas_size = width * factor, height * factor
    image = gr.State(None)
    with gr.Column(min_width=280):
        condition = ", conditioned on the class or attributes selected above" if shared.conditional else ""
        gr.Markdown(f"Sample or upload an image, and brush over the pixels to sample again{condition}.")
        with gr.Row():
            sample_one = gr.Button("Sample one", elem_id="sample-one", min_width=100)
            upload = gr.UploadButton("Upload one", file_types=["image"], type="binary", elem_id="upload", min_width=100)
        canvas = gr.ImageEditor(
            label="Paint here",
            type="numpy",
            sources=(),
            transforms=(),
            layers=False,
            canvas_size=canvas_size,
            fixed_canvas=True,
            brush=gr.Brush(default_size=min(canvas_size) // 8, colors=["#ff2d87"], color_mode="fixed"),
            elem_id="canvas",
        )
        steps = gr.Slider(1, total, min(50, total), step=1, label="DDPM steps")
        resamples = gr.Slider(1, 20, 5, step=1, label="Resamples", info="How often each step is repeated (RePaint)")
        count = gr.Slider(1, 16, 4, step=1, label="Images")
        start, stop = _start_and_stop("Inpaint")
    result = _result("inpainted")

    def sample_image(*values: Any) -> tuple[Any, Any]:
        run, options, _ = shared.parse(values)
        if run.config.model.classes and options["label"] is None:
            options["label"] = run.names[options["seed"] % run.config.model.classes]
        (image,) = run.sample(1, sampler="unipc", steps=min(20, total), **options)
        return image, _canvas_value(image, canvas_size)

    def load_upload(raw: bytes) -> tuple[Any, Any]:
        image = decode_upload(raw, shared.model.config)
        return image, _canvas_value(image, canvas_size)

    def inpaint(*values: Any) -> Iterator[Any]:
        run, options, (image, canvas, steps, resamples, count) = shared.parse(values, in_turn=False)
        if image is None:
            raise UserError("There is no image yet; sample or upload one.")
        brush = max((layer[..., 3] for layer in canvas["layers"]), key=np.count_nonzero, default=np.zeros((1, 1)))
        options |= {"count": count, "steps": steps, "resamples": resamples}
        inpainting = inpaint_brushed(run, image, brush, **options)
        yield from _component_updates(stream_samples(inpainting, "x_t", shared.folder))

    _run_on_device(sample_one.click, sample_image, shared.controls, [image, canvas])
    _run_on_device(upload.upload, load_upload, [upload], [image, canvas])
    inputs = [*shared.controls, image, canvas, steps, resamples, count]
    event = _run_on_device(start.click, inpaint, inputs, result)
    stop.click(lambda: "Stopped.", None, result[1], cancels=[event])


def _start_and_stop(name: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        start = gr.Button(name, variant="primary", elem_id=name.lower(), min_width=100)
        return start, gr.Button("Stop", elem_id=f"stop-{name.lower()}", min_width=100)


def _result(name: str, *, gif: bool = True) -> list[Any]:
    """The picture and the text of a tab, and its download buttons."""
    with gr.Column(scale=2, min_width=280):
        picture = gr.Image(
            format="png",
            show_label=False,
            interactive=False,
            buttons=["fullscreen"],
            elem_classes="picture",
            elem_id=name,
        )
        text = gr.Markdown(elem_id=f"{name}-text")
        with gr.Row():
            files = [gr.DownloadButton("Download PNG", interactive=False, elem_id=f"{name}-png")]
            files += [gr.DownloadButton("Download GIF", interactive=False, elem_id=f"{name}-gif")] if gif else []
    return [picture, text, *files]


def _component_updates(updates: Iterator[Update], *, gif: bool = True) -> Iterator[Any]:
    """New values for the components of `_result`, one list per update."""
    disabled = [gr.update(interactive=False)] * (1 + gif)
    yield [gr.update(), "Starting. A sampler is compiled before its first use, which takes a few seconds.", *disabled]
    for update in updates:
        picture = _to_rgb(_enlarge(update.picture, max(1, PICTURE_PX // max(update.picture.shape))))
        files = [gr.update(value=file, interactive=True) for file in (update.png, update.gif) if file]
        yield [picture, update.text, *(files or disabled)]


def _run_on_device(
    event: Callable[..., Any], handler: Callable[..., Any], inputs: list[Any], outputs: list[Any]
) -> Any:
    """Registers a handler for an event, such as a click; visitors queue, since there is one device."""
    handler = _with_messages(handler)
    return event(handler, inputs, outputs, concurrency_id="device", concurrency_limit=1, show_progress="minimal")


def _with_messages(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The same handler, but a UserError or device error becomes a message and leaves the page as it is."""

    @wraps(handler)
    def function(*values: Any) -> Any:
        try:
            return handler(*values)
        except (UserError, JaxRuntimeError) as error:
            return _warn(error)

    @wraps(handler)
    def generator(*values: Any) -> Iterator[Any]:
        try:
            yield from handler(*values)
        except (UserError, JaxRuntimeError) as error:
            yield _warn(error)

    return generator if inspect.isgeneratorfunction(handler) else function


def _warn(error: UserError | JaxRuntimeError) -> Any:
    """Shows a message; returns the update that leaves all components as they are."""
    text = str(error)
    if isinstance(error, JaxRuntimeError):
        text = f"The device failed ({text.splitlines()[0]}); try fewer images."
    gr.Warning(text, duration=MESSAGE_S, title="Not possible")
    return gr.skip()


def _default_steps(sampler: str, total: int) -> int:
    return min(DEFAULT_STEPS.get(sampler, total), total)


def _canvas_value(image: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    large = _to_rgb(_enlarge(as_shown(image), size[0] // image.shape[1]))
    return {"background": large, "layers": [], "composite": large}


def _enlarge(picture: Picture, factor: int) -> Picture:
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _to_rgb(picture: Picture) -> Picture:
    return picture if picture.shape[-1] == 3 else picture.repeat(3, axis=-1)
