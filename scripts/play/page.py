"""The page: what is on it, and what its buttons do. `model.py` does the work."""

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
from ddpm_jax.reporting.images import Picture
from scripts.play.model import KEPT_SECONDS, Model, Shown, compared, fitted, inpainted, iterations, played

CSS = """
.gradio-container {width: 100% !important; max-width: 1100px !important; margin: auto}
.picture img {image-rendering: pixelated}
"""
LAUNCH = {
    "max_file_size": "20mb",
    "theme": gr.themes.Default(font=("system-ui", "sans-serif")),
    "css": CSS,
    "footer_links": [],
}
SAMPLERS = {"DDPM": "ddpm", "DDIM": "ddim", "DPM-Solver++": "dpm_solver", "UniPC": "unipc"}
VIEWS = [("noisy images (x_t)", "x_t"), ("what it takes them for (x_0)", "x0")]
COMPARISONS = ("ddim:50", "ddim:10", "unipc:10", "ddpm", "ddim:100", "ddim:20", "dpm_solver:20", "dpm_solver:10")
CHOSEN_AT_FIRST = 3
"""Of these, those that are chosen at first."""
IN_TURN = "each in turn"
MOST_IMAGES = 64
MOST_SEED = 2**31 - 1
CANVAS = 384
"""At most so many pixels wide are small images where one paints on them."""
LARGE = 480
"""At least half as wide and high are pictures shown."""
SECONDS = 6
"""That a message stays."""
WAITING = 20
"""Visitors in the queue."""


def build_page(model: Model, folder: Path) -> gr.Blocks:
    """The page of a model; folder: for the pictures that visitors load, which is deleted with the page."""
    with gr.Blocks(title="ddpm_jax playground", analytics_enabled=False, delete_cache=(600, KEPT_SECONDS)) as page:
        shared = Shared(model, folder)
        with gr.Tab("Draw"), gr.Row():
            _draw_tab(shared)
        with gr.Tab("Compare samplers"), gr.Row():
            _compare_tab(shared)
        with gr.Tab("Inpaint"), gr.Row():
            _inpaint_tab(shared)
    return page.queue(max_size=WAITING)


class Shared:
    """What is above the tabs and counts for all of them: the checkpoint, the seed, the label."""

    def __init__(self, model: Model, folder: Path):
        self.model, self.folder = model, folder
        self.conditional = bool(model.config.model.classes or model.config.model.attributes)
        about = gr.Markdown(self._title(model.steps[0], True))
        with gr.Row():
            checkpoint = gr.Dropdown(model.steps, value=model.steps[0], label="Checkpoint", elem_id="checkpoint")
            ema = gr.Checkbox(True, label="Averaged parameters", visible=model.has_raw, elem_id="ema")
            seed = gr.Number(0, label="Seed", precision=0, elem_id="seed")
            another = gr.Button("Another seed", elem_id="another", min_width=150)
        another.click(lambda: random.randint(0, MOST_SEED), None, seed)
        label, guidance = self._label_controls()
        self.controls = [checkpoint, ema, seed, label, guidance]
        for control in (checkpoint, ema):
            _on_device(control.change, self._title, [checkpoint, ema], [about])

    def _title(self, step: int, ema: bool) -> str:
        return f"# ddpm_jax playground\n{self.model.about(step, ema)}"

    def _label_controls(self) -> tuple[Any, Any]:
        """What chooses the label and how much it counts; not to be seen where the model knows none."""
        names = list(self.model.names)
        with gr.Row(visible=self.conditional):
            if self.model.config.model.attributes:
                label = gr.Dropdown(names, value=[], multiselect=True, label="Attributes", elem_id="label")
            else:
                label = gr.Dropdown([IN_TURN, *names], value=IN_TURN, label="Class", elem_id="label")
            guidance = gr.Slider(0, 8, 1, step=0.1, label="Guidance (0: any label, 1: as learned)", elem_id="guidance")
        return label, guidance

    def asked(self, given: Sequence[Any], *, in_turn: bool = True) -> tuple[Run, dict[str, Any], Sequence[Any]]:
        """The run, the options that are chosen above, and what else was given.

        in_turn: without a choice, each class is asked for in turn, rather than none.
        """
        checkpoint, ema, seed, label, guidance, *others = given
        if seed is None:
            raise UserError("The seed is empty; expected a whole number from 0.")
        options = {"seed": seed}
        if self.conditional:
            chosen = _label(label)
            options |= {"label": chosen}
            # Where no label is asked for, there is none to exaggerate.
            takes_turns = in_turn and self.model.config.model.classes
            options |= {"guidance": guidance} if chosen is not None or takes_turns else {}
        return self.model.at(checkpoint, ema), options, others


def _label(chosen: str | list[str]) -> str | None:
    if isinstance(chosen, list):
        return ",".join(chosen) or None
    return None if chosen == IN_TURN else chosen


def _draw_tab(shared: Shared) -> None:
    total = shared.model.config.diffusion.steps
    with gr.Column(min_width=280):
        sampler = gr.Dropdown(list(SAMPLERS.items()), value="ddim", label="Sampler", elem_id="sampler")
        steps = gr.Slider(1, total, _default_steps("ddim", total), step=1, label="Steps", elem_id="steps")
        eta = gr.Slider(0, 1, 0, step=0.05, label="eta", info="0: no noise, 1: as much as DDPM", elem_id="eta")
        count = gr.Slider(1, MOST_IMAGES, 16, step=1, label="Images", elem_id="count")
        view = gr.Radio(VIEWS, value="x_t", label="Show while drawing", elem_id="view")
        start, stop = _start_and_stop("Draw")
    result = _result("drawn")

    def draw(*given: Any) -> Iterator[Any]:
        run, options, (sampler, steps, eta, count, view) = shared.asked(given)
        options |= {"sampler": sampler, "steps": steps} | ({"eta": eta} if sampler == "ddim" else {})
        yield from _shown(played(run.iter_steps(count, **options), view, shared.folder))

    drawing = _on_device(start.click, draw, [*shared.controls, sampler, steps, eta, count, view], result)
    stop.click(lambda: "Stopped.", None, result[1], cancels=[drawing])
    sampler.change(lambda name: (_default_steps(name, total), gr.update(visible=name == "ddim")), sampler, [steps, eta])


def _compare_tab(shared: Shared) -> None:
    total = shared.model.config.diffusion.steps
    known = [name for name in COMPARISONS if int(name.partition(":")[2] or 1) <= total]
    with gr.Column(min_width=280):
        gr.Markdown("The same noise through several samplers, a row each.")
        names = gr.Dropdown(
            known,
            value=known[:CHOSEN_AT_FIRST],
            multiselect=True,
            allow_custom_value=True,
            label="Samplers",
            info="With their steps, such as ddim:25",
            elem_id="names",
        )
        count = gr.Slider(1, 12, 8, step=1, label="Images")
        start, stop = _start_and_stop("Compare")
    result = _result("compared", gif=False)

    def compare(*given: Any) -> Iterator[Any]:
        run, options, (names, count) = shared.asked(given)
        yield from _shown(compared(iterations(run, names, count, **options), shared.folder), gif=False)

    comparing = _on_device(start.click, compare, [*shared.controls, names, count], result)
    stop.click(lambda: "Stopped.", None, result[1], cancels=[comparing])


def _inpaint_tab(shared: Shared) -> None:
    total, size = shared.model.config.diffusion.steps, shared.model.config.data.image_size
    canvas_size = size * max(1, CANVAS // size)
    image = gr.State(None)
    with gr.Column(min_width=280):
        as_chosen = ", as an image of the class or attributes that are chosen" if shared.conditional else ""
        gr.Markdown(f"Take an image and brush over what shall be drawn anew{as_chosen}.")
        with gr.Row():
            fresh = gr.Button("Draw one", elem_id="fresh", min_width=100)
            upload = gr.UploadButton("Load one", file_types=["image"], type="binary", elem_id="upload", min_width=100)
        canvas = gr.ImageEditor(
            label="Paint here",
            type="numpy",
            sources=(),
            transforms=(),
            layers=False,
            canvas_size=(canvas_size, canvas_size),
            fixed_canvas=True,
            brush=gr.Brush(default_size=canvas_size // 8, colors=["#ff2d87"], color_mode="fixed"),
            elem_id="canvas",
        )
        steps = gr.Slider(
            1, total, min(50, total), step=1, label="Steps of DDPM", info="Each is repeated as often as resamples say"
        )
        resamples = gr.Slider(1, 20, 5, step=1, label="Resamples", info="How often each step is repeated (RePaint)")
        count = gr.Slider(1, 16, 4, step=1, label="Images")
        start, stop = _start_and_stop("Inpaint")
    result = _result("inpainted")

    def take(*given: Any) -> tuple[Any, Any]:
        run, options, _ = shared.asked(given)
        if run.config.model.classes and options["label"] is None:
            options["label"] = run.names[options["seed"] % run.config.model.classes]
        (drawn,) = run.sample(1, sampler="unipc", steps=min(20, total), **options)
        return drawn, _to_paint_on(drawn, canvas_size)

    def load(raw: bytes) -> tuple[Any, Any]:
        own = fitted(raw, shared.model.config)
        return own, _to_paint_on(own, canvas_size)

    def inpaint(*given: Any) -> Iterator[Any]:
        run, options, (image, canvas, steps, resamples, count) = shared.asked(given, in_turn=False)
        if image is None:
            raise UserError("There is no image yet: draw one, or load one of yours.")
        painted = max((layer[..., 3] for layer in canvas["layers"]), key=np.count_nonzero, default=np.zeros((1, 1)))
        options |= {"count": count, "steps": steps, "resamples": resamples}
        yield from _shown(played(inpainted(run, image, painted, **options), "x_t", shared.folder))

    _on_device(fresh.click, take, shared.controls, [image, canvas])
    _on_device(upload.upload, load, [upload], [image, canvas])
    painting = _on_device(start.click, inpaint, [*shared.controls, image, canvas, steps, resamples, count], result)
    stop.click(lambda: "Stopped.", None, result[1], cancels=[painting])


def _start_and_stop(name: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        start = gr.Button(name, variant="primary", elem_id=name.lower(), min_width=100)
        return start, gr.Button("Stop", elem_id=f"stop-{name.lower()}", min_width=100)


def _result(name: str, *, gif: bool = True) -> list[Any]:
    """Where the pictures of a tab go, and the buttons that save them."""
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


def _shown(steps: Iterator[Shown], *, gif: bool = True) -> Iterator[Any]:
    """What the components of `_result` are to show, one list for each moment."""
    waiting = [gr.update(interactive=False)] * (1 + gif)
    yield [gr.update(), "Starting; a sampler that is new is compiled first, which takes some seconds.", *waiting]
    for shown in steps:
        picture = _in_colour(_enlarged(shown.picture, max(1, LARGE // max(shown.picture.shape))))
        files = [gr.update(value=file, interactive=True) for file in (shown.png, shown.gif) if file]
        yield [picture, shown.text, *(files or waiting)]


def _on_device(happens: Callable[..., Any], work: Callable[..., Any], given: list[Any], results: list[Any]) -> Any:
    """Does work when something happens, such as a click; visitors queue for it, since there is one device."""
    return happens(_told(work), given, results, concurrency_id="device", concurrency_limit=1, show_progress="minimal")


def _told(work: Callable[..., Any]) -> Callable[..., Any]:
    """The same work, whose mistakes become a message on the page, which stays as it is."""

    @wraps(work)
    def one(*given: Any) -> Any:
        try:
            return work(*given)
        except (UserError, JaxRuntimeError) as error:
            return _warned(error)

    @wraps(work)
    def several(*given: Any) -> Iterator[Any]:
        try:
            yield from work(*given)
        except (UserError, JaxRuntimeError) as error:
            yield _warned(error)

    return several if inspect.isgeneratorfunction(work) else one


def _warned(error: UserError | JaxRuntimeError) -> Any:
    """Shows a message, and gives what leaves all components as they are."""
    words = str(error)
    if isinstance(error, JaxRuntimeError):
        words = f"The device gave up ({words.splitlines()[0]}); ask for fewer images."
    gr.Warning(words, duration=SECONDS, title="Not so")
    return gr.skip()


def _default_steps(sampler: str, total: int) -> int:
    return min(DEFAULT_STEPS.get(sampler, total), total)


def _to_paint_on(image: np.ndarray, size: int) -> dict[str, Any]:
    large = _in_colour(_enlarged(image, size // image.shape[0]))
    return {"background": large, "layers": [], "composite": large}


def _enlarged(picture: Picture, factor: int) -> Picture:
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _in_colour(picture: Picture) -> Picture:
    return picture if picture.shape[-1] == 3 else picture.repeat(3, axis=-1)
