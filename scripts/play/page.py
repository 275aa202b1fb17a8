"""The playground's page. `tabs.py` has its tabs, `model.py` the sampling itself."""

from pathlib import Path

import gradio as gr

from ddpm_jax.config.advice import fits
from scripts.play.controls import SharedControls
from scripts.play.model import DOWNLOADS_KEPT_S, Model
from scripts.play.tabs import compare_tab, image_to_image_tab, inpaint_tab, sample_tab

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
MAX_QUEUE = 20
"""Maximum number of visitors who wait."""


def build_page(model: Model, folder: Path) -> gr.Blocks:
    """The page for a model. folder: receives the files for download."""
    tabs = {"Sample": sample_tab, "Compare": compare_tab, "Inpaint": inpaint_tab}
    if not fits(model.config, "ddpm"):  # RePaint's sampler.
        del tabs["Inpaint"]
    if model.config.condition_shape:  # The others need a model without a condition.
        tabs = {"Image to image": image_to_image_tab}
    with gr.Blocks(title="ddpm_jax playground", analytics_enabled=False, delete_cache=(600, DOWNLOADS_KEPT_S)) as page:
        shared = SharedControls(model, folder)
        for name, build in tabs.items():
            with gr.Tab(name), gr.Row():
                build(shared)
    return page.queue(max_size=MAX_QUEUE)
