"""The controls above the tabs, and the choice of a sampler."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ddpm_jax import Run, UserError
from ddpm_jax.builders import DEFAULT_STEPS
from scripts.play.components import run_on_device
from scripts.play.model import Model

SAMPLERS = {"DDPM": "ddpm", "DDIM": "ddim", "DPM-Solver++": "dpm_solver", "UniPC": "unipc"}
VIEWS = [("noisy images (x_t)", "x_t"), ("predicted clean images (x_0)", "x0")]
IN_TURN, NO_LABEL = "each in turn", "no label"
"""Choices for no class: that of samples, and that of images that are made of conditions."""
MAX_SEED = 2**31 - 1


class SharedControls:
    """The controls above the tabs, which apply to all of them: checkpoint, seed, label and guidance."""

    def __init__(self, model: Model, folder: Path):
        self.model, self.folder = model, folder
        self.conditional = bool(model.config.model.classes or model.config.model.attributes)
        self.drops_condition = model.config.train.condition_dropout > 0.0
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
            run_on_device(control.change, self._title, [checkpoint, ema], [title])

    def _title(self, step: int, ema: bool) -> str:
        return f"# ddpm_jax playground\n{self.model.description(step, ema)}"

    def _label_controls(self) -> tuple[Any, Any]:
        """The label and the guidance; hidden if the model has none."""
        names, shown = list(self.model.names), {"visible": self.conditional, "elem_id": "label"}
        ignored = "condition" if self.drops_condition else "label"
        with gr.Row(visible=self.conditional or self.drops_condition):
            if self.model.config.model.attributes:
                label = gr.Dropdown(names, value=[], multiselect=True, label="Attributes", **shown)
            else:
                none = NO_LABEL if self.model.config.condition_shape else IN_TURN
                label = gr.Dropdown([none, *names], value=none, label="Class", **shown)
            guidance = gr.Slider(
                0, 8, 1, step=0.1, label=f"Guidance (0: ignores the {ignored}, 1: as trained)", elem_id="guidance"
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
        # Without a label or a condition there is nothing to guide towards.
        labelled = options.get("label") is not None or (in_turn and self.model.config.model.classes)
        if labelled or self.drops_condition:
            options |= {"guidance": guidance}
        return self.model.run(checkpoint, ema), options, rest


def _label(selected: str | list[str]) -> str | None:
    if isinstance(selected, list):
        return ",".join(selected) or None
    return None if selected in (IN_TURN, NO_LABEL) else selected


class SamplerControls:
    """Sampler, steps, eta, number of images, and which images to show while sampling."""

    def __init__(self, total: int, count: int, most: int):
        sampler = gr.Dropdown(list(SAMPLERS.items()), value="ddim", label="Sampler", elem_id="sampler")
        steps = gr.Slider(1, total, _default_steps("ddim", total), step=1, label="Steps", elem_id="steps")
        eta = gr.Slider(0, 1, 0, step=0.05, label="eta", info="0: deterministic, 1: as noisy as DDPM", elem_id="eta")
        images = gr.Slider(1, most, count, step=1, label="Images", elem_id="count")
        view = gr.Radio(VIEWS, value="x_t", label="Show while sampling", elem_id="view")
        self.controls = [sampler, steps, eta, images, view]
        sampler.change(
            lambda name: (_default_steps(name, total), gr.update(visible=name == "ddim")), sampler, [steps, eta]
        )

    def parse(self, values: Sequence[Any]) -> tuple[dict[str, Any], int, str]:
        """The sampling options of these controls, the number of images, and the view."""
        sampler, steps, eta, count, view = values
        return {"sampler": sampler, "steps": steps} | ({"eta": eta} if sampler == "ddim" else {}), count, view


def _default_steps(sampler: str, total: int) -> int:
    return min(DEFAULT_STEPS.get(sampler, total), total)
