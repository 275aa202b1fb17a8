"""Writes a trained run as a folder that diffusers loads.

    python scripts/export_diffusers.py runs/x exported

DDPMPipeline.from_pretrained("exported") then loads it; a class-conditional or image-to-image model is loaded with
UNet2DModel and its scheduler, as the model card in the folder shows.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    """Parses the flags, loads the run, samples a grid, writes the folder."""
    import logging

    from ddpm_jax.builders import DEFAULT_STEPS
    from ddpm_jax.errors import UserError
    from ddpm_jax.interop.diffusers_card import model_card
    from ddpm_jax.interop.diffusers_folder import write_folder
    from ddpm_jax.interop.diffusers_options import options_of
    from ddpm_jax.interop.runs import refuse_full
    from ddpm_jax.reporting.images import grid
    from ddpm_jax.run import load_run

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("workdir", help="the run's folder or URL")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--step", type=int, help="training step of the checkpoint (default: the newest)")
    parser.add_argument("--raw", action="store_true", help="the raw parameters instead of EMA")
    parser.add_argument("--images", type=int, default=16, help="images in the card (default 16), without conditions")
    flags = parser.parse_args()
    if flags.images < 0:
        raise UserError(f"--images={flags.images} is out of range; expected 0 or more.")
    out = flags.out.expanduser().resolve()
    refuse_full(out)
    run = load_run(flags.workdir, step=flags.step, ema=not flags.raw)
    options_of(run.config)  # Refuses unsupported models before images are sampled.
    caption = picture = None
    if flags.images and run.config.condition_shape is None:
        sampler, name = "ddim", "DDIM"
        if run.config.diffusion.objective == "consistency":
            sampler, name = "consistency", "consistency sampling"
        steps = min(DEFAULT_STEPS[sampler], run.config.diffusion.steps)
        picture = grid(run.sample(flags.images, sampler=sampler, steps=steps, seed=0))
        caption = f"{flags.images} samples, {name} with {steps} steps, seed 0"
    card = model_card(run.config, run.step, run.images, caption)
    write_folder(run.config, run.params, out, names=run.names, card=card, grid=picture)
    logging.getLogger("ddpm_jax").info("Wrote %s", out)


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import end_process, exit_code

    end_process(exit_code(main))
