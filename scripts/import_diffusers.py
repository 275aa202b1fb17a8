"""Imports a model that diffusers saved (UNet2DModel, DDPMPipeline or DDIMPipeline) as a run.

    python scripts/import_diffusers.py MODEL_DIR runs/imported
    python main.py --mode=sample --workdir=runs/imported
    python main.py --workdir=runs/imported --config.data.path=photos/ --config.train.steps=1000

MODEL_DIR is a folder with config.json and safetensors, or a name on the Hugging Face hub such as google/ddpm-cat-256.
--config names a recipe for fields that the model does not determine (optimizer, steps, logs); --config.FIELD=VALUE sets
a field. An image-to-image model needs --config.model.condition, and for low_resolution --config.degradation.factor.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    """Parses the flags, reads the model, writes the run."""
    from ddpm_jax.config import check_overrides, config_of, defaults, load_recipe, override
    from ddpm_jax.errors import UserError
    from ddpm_jax.interop.diffusers_folder import fetch_folder, read_folder
    from ddpm_jax.interop.runs import new_workdir, refuse_contradictions, start_run

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", help="a folder, or a name on the hub")
    parser.add_argument("workdir", help="a new folder for the run")
    parser.add_argument("--config", metavar="FILE", help="a recipe; without one, the defaults")
    flags, overrides = parser.parse_known_args()
    check_overrides(overrides, ["config", "help"])
    workdir = new_workdir(flags.workdir)
    recipe = load_recipe(flags.config) if flags.config else defaults()
    given = override(recipe, overrides)
    found = read_folder(fetch_folder(flags.model), given.model.condition)
    recipe.degradation = given.degradation
    recipe.update_from_flattened_dict(found.fields)
    try:
        config_of(recipe)
    except UserError as error:
        raise UserError(f"{flags.model} and the flags make a configuration that is not supported: {error}") from error
    config = config_of(override(recipe, overrides))
    refuse_contradictions(found.fields, config)
    start_run(config, workdir, found.params(config), found.labels(config))


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import end_process, exit_code

    end_process(exit_code(main))
