"""The controls above the tabs, and the choice of a sampler."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ddpm_jax import Run, UserError
from ddpm_jax.builders import DEFAULT_STEPS, SAMPLERS
from ddpm_jax.config import Config
from ddpm_jax.config.advice import fits
from scripts.play.components import run_on_device
from scripts.play.model import Model

LABELS = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "dpm_solver": "DPM-Solver++",
    "unipc": "UniPC",
    "heun": "Heun",
    "consistency": "Consistency",
}
"""Names of the samplers on the page."""
FEW_STEPS = 8
"""Maximum number of steps of a model that was tuned for one to four."""
AS_TRAINED, NO_GUIDE = "as trained", "no guide"
GUIDED = 2
"""Guidance with a guide, until another is chosen."""
VIEWS = [("noisy images (x_t)", "x_t"), ("predicted clean images (x_0)", "x0")]
IN_TURN, NO_LABEL = "each in turn", "no label"
"""Choices for no class: that of samples, and that of images that are made of conditions."""
MAX_SEED = 2**31 - 1


class SharedControls:
    """The controls above the tabs, which apply to all of them: parameters, seed, label, guidance and guide."""

    def __init__(self, model: Model, folder: Path):
        self.model, self.folder = model, folder
        self.conditional = bool(model.config.model.classes or model.config.model.attributes)
        self.drops_condition = model.config.train.condition_dropout > 0.0
        newest = model.steps[0]
        title = gr.Markdown(self._title(newest, True, AS_TRAINED))
        with gr.Row():
            checkpoint = gr.Dropdown(model.steps, value=newest, label="Checkpoint", elem_id="checkpoint")
            ema = gr.Checkbox(True, label="EMA parameters", visible=model.has_raw_params, elem_id="ema")
            width = self._width_control(newest)
            seed = gr.Number(0, label="Seed", precision=0, elem_id="seed")
            new_seed = gr.Button("New seed", elem_id="new-seed", min_width=150)
        new_seed.click(lambda: random.randint(0, MAX_SEED), None, seed)
        label, guidance, guide = self._guidance_controls(newest)
        self.controls = [checkpoint, ema, width, seed, label, guidance, guide]
        for event in (checkpoint.change, ema.change, width.input):
            run_on_device(event, self._switch, [checkpoint, ema, width, guide], [title, width, guide])
        guide.change(self._guidance_update, [guidance, guide], guidance)

    def _switch(self, step: int, ema: bool, width: str, guide: str) -> tuple[Any, ...]:
        """The title for other parameters, and the widths and guides to choose from then."""
        widths, guides = self._widths(step), self._guides(step)
        width, guide = width if width in widths else AS_TRAINED, guide if guide in guides else NO_GUIDE
        shown = ema and bool(self.model.steps_with_widths)
        updates = gr.update(choices=widths, value=width, visible=shown), gr.update(choices=guides, value=guide)
        return self._title(step, ema, width), *updates

    def _title(self, step: int, ema: bool, width: str) -> str:
        return f"# ddpm_jax playground\n{self.model.description(*_parameters(step, ema, width))}"

    def _widths(self, step: int) -> list[str]:
        return [AS_TRAINED, *map(str, self.model.ema_widths(step))]

    def _guides(self, step: int) -> list[str]:
        return [NO_GUIDE, *self.model.guides(step)]

    def _width_control(self, step: int) -> gr.Dropdown:
        """The width of the EMA; hidden if it cannot be rebuilt at any checkpoint."""
        possible = self.model.steps_with_widths
        return gr.Dropdown(
            self._widths(step),
            value=AS_TRAINED,
            label="EMA width",
            info=f"Others for checkpoints {', '.join(map(str, possible))}" if possible != self.model.steps else None,
            visible=bool(possible),
            elem_id="ema-width",
        )

    def _guidance_controls(self, step: int) -> tuple[Any, Any, Any]:
        """The label, the guidance and the guide; each is hidden if the model has none."""
        names, shown = list(self.model.names), {"visible": self.conditional, "elem_id": "label"}
        guides = self._guides(step)
        with gr.Row(visible=self.conditional or self.drops_condition or len(guides) > 1):
            if self.model.config.model.attributes:
                label = gr.Dropdown(names, value=[], multiselect=True, label="Attributes", **shown)
            else:
                none = NO_LABEL if self.model.config.condition_shape else IN_TURN
                label = gr.Dropdown([none, *names], value=none, label="Class", **shown)
            guide = gr.Dropdown(
                guides,
                value=NO_GUIDE,
                label="Guide",
                info="A worse model to move away from",
                visible=len(guides) > 1,
                elem_id="guide",
            )
            guidance = gr.Slider(0, 8, 1, step=0.1, elem_id="guidance", **self._guidance_options(NO_GUIDE))
        return label, guidance, guide

    def _guidance_options(self, guide: str) -> dict[str, Any]:
        if guide != NO_GUIDE:
            return {"visible": True, "label": "Guidance (0: the guide, 1: as trained)"}
        ignored = "condition" if self.drops_condition else "label"
        shown = self.conditional or self.drops_condition
        return {"visible": shown, "label": f"Guidance (0: ignores the {ignored}, 1: as trained)"}

    def _guidance_update(self, guidance: float, guide: str) -> Any:
        """The guidance for another guide, which has no effect at 1."""
        value = GUIDED if guide != NO_GUIDE and guidance == 1 else guidance
        return gr.update(value=value, **self._guidance_options(guide))

    def parse(self, values: Sequence[Any], *, in_turn: bool = True) -> tuple[Run, dict[str, Any], Sequence[Any]]:
        """The run, the sampling options of these controls, and the remaining values, from other controls.

        in_turn: whether sampling without a label conditions on each class in turn, rather than on none.
        """
        checkpoint, ema, width, seed, label, guidance, guide, *rest = values
        if seed is None:
            raise UserError("The seed is empty; expected a whole number, 0 or more.")
        options = {"seed": seed}
        if self.conditional:
            options |= {"label": _label(label)}
        # Without a label or a condition there is nothing to guide towards.
        labelled = options.get("label") is not None or (in_turn and self.model.config.model.classes)
        if labelled or self.drops_condition or guide != NO_GUIDE:
            options |= {"guidance": guidance}
        if guide != NO_GUIDE:
            if guidance == 1:
                raise UserError(f"The guide {guide} has no effect at guidance 1; choose another guidance, or no guide.")
            options |= {"guide": self.model.guide(guide)}
        return self.model.run(*_parameters(checkpoint, ema, width)), options, rest


def _parameters(step: int, ema: bool, width: str) -> tuple[int, bool, float | None]:
    """The arguments of `Model.run`; raw parameters have no width."""
    return step, ema, float(width) if ema and width != AS_TRAINED else None


def _label(selected: str | list[str]) -> str | None:
    if isinstance(selected, list):
        return ",".join(selected) or None
    return None if selected in (IN_TURN, NO_LABEL) else selected


class SamplerControls:
    """Sampler, steps, eta, number of images, and which images to show while sampling.

    count, most: the number of images at first, and at most.
    """

    def __init__(self, config: Config, count: int, most: int):
        total = config.diffusion.steps
        names = [(LABELS[name], name) for name in SAMPLERS if fits(config, name)]
        first, highest = ("ddim", total) if fits(config, "ddim") else ("consistency", min(FEW_STEPS, total))
        sampler = gr.Dropdown(names, value=first, label="Sampler", elem_id="sampler")
        steps = gr.Slider(1, highest, _default_steps(first, total), step=1, label="Steps", elem_id="steps")
        eta = gr.Slider(
            *(0, 1, 0),
            step=0.05,
            label="eta",
            info="0: deterministic, 1: as noisy as DDPM",
            visible=first == "ddim",
            elem_id="eta",
        )
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
