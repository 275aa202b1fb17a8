"""Parts that several tabs of the page have: buttons, results, a canvas to paint on, and how handlers run."""

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import gradio as gr
import numpy as np
from jax.errors import JaxRuntimeError

from ddpm_jax import UserError
from ddpm_jax.config import Config
from ddpm_jax.reporting.images import Picture, as_shown
from scripts.play.model import Update

CANVAS_PX = 384
"""Maximum side of the canvas, in pixels, for images smaller than that."""
PICTURE_PX = 480
"""Small pictures are enlarged by the largest whole factor that keeps their longer side within this many pixels."""
MESSAGE_S = 6
"""Time for which a message stays on the page."""


def start_and_stop(name: str) -> tuple[gr.Button, gr.Button]:
    """The button that starts a tab's handler, and the one that stops it."""
    with gr.Row():
        start = gr.Button(name, variant="primary", elem_id=name.lower(), min_width=100)
        return start, gr.Button("Stop", elem_id=f"stop-{name.lower()}", min_width=100)


def build_result(name: str, *, gif: bool = True) -> list[Any]:
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


def component_updates(updates: Iterator[Update], *, gif: bool = True) -> Iterator[Any]:
    """New values for the components of `build_result`, one list per update."""
    disabled = [gr.update(interactive=False)] * (1 + gif)
    yield [gr.update(), "Starting. A sampler is compiled before its first use, which takes a few seconds.", *disabled]
    for update in updates:
        picture = to_rgb(enlarge(update.picture, max(1, PICTURE_PX // max(update.picture.shape))))
        files = [gr.update(value=file, interactive=True) for file in (update.png, update.gif) if file]
        yield [picture, update.text, *(files or disabled)]


def run_until_stopped(
    buttons: tuple[gr.Button, gr.Button], handler: Callable[..., Any], inputs: list[Any], outputs: list[Any]
) -> None:
    """Registers a handler for the first button; the second stops it. outputs: the components of `build_result`."""
    start, stop = buttons
    event = run_on_device(start.click, handler, inputs, outputs)
    stop.click(lambda: "Stopped.", None, outputs[1], cancels=[event])


def run_on_device(event: Callable[..., Any], handler: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> Any:
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


def canvas_size_of(config: Config) -> tuple[int, int]:
    """Width and height of a canvas on which each pixel of the model's images is a square of whole pixels."""
    height, width, _ = config.image_shape
    factor = max(1, CANVAS_PX // max(height, width))
    return width * factor, height * factor


def build_canvas(size: tuple[int, int]) -> gr.ImageEditor:
    """A canvas of this width and height to paint on."""
    return gr.ImageEditor(
        label="Paint here",
        type="numpy",
        sources=(),
        transforms=(),
        layers=False,
        canvas_size=size,
        fixed_canvas=True,
        brush=gr.Brush(default_size=min(size) // 8, colors=["#ff2d87"], color_mode="fixed"),
        elem_id="canvas",
    )


def brush_of(canvas: dict[str, Any]) -> np.ndarray:
    """What was painted on a canvas: more than 0 under the brush."""
    return max((layer[..., 3] for layer in canvas["layers"]), key=np.count_nonzero, default=np.zeros((1, 1)))


def canvas_value(image: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """The content of a canvas that shows an image [height, width, channels]."""
    large = to_rgb(enlarge(as_shown(image), size[0] // image.shape[1]))
    return {"background": large, "layers": [], "composite": large}


def enlarge(picture: Picture, factor: int) -> Picture:
    """The picture with each pixel as a square of `factor` pixels."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def to_rgb(picture: Picture) -> Picture:
    """The picture in colour."""
    return picture if picture.shape[-1] == 3 else picture.repeat(3, axis=-1)
