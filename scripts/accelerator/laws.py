"""The laws that must hold on every device: samplers with exact denoisers, one device = several, resume to the bit.

    python scripts/accelerator/laws.py machine | samplers | devices RECIPE_FLAGS | compare WORKDIR WORKDIR

prints one JSON object; scripts/check_accelerator.py runs each of them as a part (`PARTS`).
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from scripts.accelerator.parts import Check, Failed, Part, Results, Skipped, output_of  # noqa: E402

PROGRAM = "scripts/accelerator/laws.py"
STEPS = {
    "ddpm": ("trailing", 1000),
    "ddim": ("trailing", 1000),
    "dpm_solver": ("quadratic", 50),
    "unipc": ("quadratic", 50),
    "heun": ("karras", 50),
}
"""Spacing and number of sampling steps after which samples of Gaussian data have the data's moments."""
POINT_LIMIT, MOMENT_LIMIT, DEVICES_LIMIT = 1e-5, 0.02, 1e-3
"""Largest errors: of a pixel; of mean and standard deviation relative to the latter; of losses, where TF32 rounds."""
RECIPE = "digits"
FIELDS = ("log.preview_every=0", "log.validate_every=0", "model.dropout=0.1", "optimizer.schedule=constant")
"""Fields of the resumed run; its learning rate must not depend on its length."""


def machine() -> Results:
    """Versions and devices."""
    import flax
    import jax
    import jaxlib

    from ddpm_jax.reporting.memory import device_limit

    device, limit = jax.devices()[0], device_limit()
    return {
        "python": sys.version.split()[0],
        **{module.__name__: module.__version__ for module in (jax, jaxlib, flax)},
        "platform": device.platform,
        "device": device.device_kind,
        "count": jax.device_count(),
        "memory_gibibytes": None if limit is None else limit / 2**30,
    }


def samplers() -> Results:
    """The largest errors of each sampler for a data set of one image, and for Gaussian data."""
    import jax
    import numpy as np

    from ddpm_jax.diffusion.schedule import linear_betas, schedule_of_betas
    from ddpm_jax.sampling.timesteps import step_pairs
    from tests.analytic import gaussian_denoiser, point_denoiser
    from tests.sampling.samplers import MEAN, SAMPLERS, STD, start

    schedule, laws = schedule_of_betas(linear_betas(1000)), {}
    x_T, keys = start(16, (64, 64, 1))
    for name, (spacing, steps) in STEPS.items():
        sampler = SAMPLERS.get(name) or SAMPLERS[f"{name}-2"]

        def sample(denoiser: Any, pairs: np.ndarray, sampler: Any = sampler) -> np.ndarray:
            call = jax.jit(lambda x, keys: sampler(denoiser, schedule, x, keys, pairs).images)
            return np.asarray(call(x_T, keys), np.float64)

        few, many = (step_pairs(spacing, 1000, count, sigma=schedule.sigma) for count in (20, steps))
        point = np.abs(sample(point_denoiser(schedule, MEAN), few) - MEAN).max()
        images = sample(gaussian_denoiser(schedule, MEAN, STD), many)
        moments = max(abs(images.mean() - MEAN), abs(images.std() - STD)) / STD
        laws[f"{name}: a point mass is recovered"] = _law(point, POINT_LIMIT)
        laws[f"{name}: Gaussian moments, {steps} steps"] = _law(moments, MOMENT_LIMIT)
    return {"laws": laws}


def devices(recipe: str, *overrides: str) -> Results:
    """The relative difference of the mean losses of three training steps on one device and on all."""
    import jax

    from ddpm_jax.builders import build_learner
    from ddpm_jax.config import config_of, load_recipe, override
    from ddpm_jax.data.batches import random_batch
    from ddpm_jax.runtime.compilation import RUN_ONCE, jit
    from ddpm_jax.runtime.devices import data_mesh, replicated, to_devices
    from ddpm_jax.training.state import init_state
    from ddpm_jax.training.step import empty_metrics, lower_step

    batch_size, losses = 8 * jax.device_count(), []
    settings = [*overrides, f"--config.data.batch_size={batch_size}"]
    config = config_of(override(load_recipe(recipe.partition("=")[2]), settings))
    for some in (jax.devices()[:1], jax.devices()):
        learner = build_learner(config, data_mesh(some))
        first = partial(init_state, learner.unet, learner.optimizer, config.seed, config.image_shape)
        state = jit(first, out_shardings=replicated(learner.mesh), compiler_options=RUN_ONCE)()
        batch = to_devices(learner.mesh, random_batch(config, batch_size, config.train.accumulate), axis=1)
        step, metrics = lower_step(learner, state, batch).compile(), empty_metrics()
        for _ in range(3):
            state, metrics, _ = step(state, metrics, batch)
        losses.append(float(metrics["loss"].compute()))
    error = abs(losses[1] / losses[0] - 1.0)
    return {"laws": {f"losses on 1 device = on {jax.device_count()}": _law(error, DEVICES_LIMIT)}}


def compare(first: str, second: str) -> Results:
    """The number of arrays whose bits differ between two runs' newest checkpoints, by part of the state."""
    import jax
    import numpy as np

    from scripts.fault_injection.commands import newest_state

    a, b = newest_state(Path(first)), newest_state(Path(second))
    if (int(a.step), int(b.step)) != (6, 6):
        raise RuntimeError(f"The runs reached steps {int(a.step)} and {int(b.step)}; expected 6 and 6.")

    def differing(name: str) -> int:
        pairs = zip(jax.tree.leaves(getattr(a, name)), jax.tree.leaves(getattr(b, name)), strict=True)
        return sum(np.asarray(x).tobytes() != np.asarray(y).tobytes() for x, y in pairs)

    return {"laws": {f"resumed = uninterrupted: {n}": _law(differing(n), 0) for n in ("params", "ema", "opt_state")}}


def _law(error: float, limit: float) -> Results:
    return {"error": float(error), "limit": limit, "holds": bool(error <= limit)}


def _checked(results: Results) -> Results:
    """The results; raises Failed if a law is broken."""
    broken = [f"{name} (error {law['error']:.2g})" for name, law in results["laws"].items() if not law["holds"]]
    if broken:
        raise Failed(f"does not hold: {'; '.join(broken)}")
    return results


def check_machine(_: Check, seconds: float) -> Results:
    """Versions and devices; above all, whether JAX finds the device."""
    return json.loads(output_of([PROGRAM, "machine"], seconds))


def check_samplers(_: Check, seconds: float) -> Results:
    """The laws of the samplers."""
    return _checked(json.loads(output_of([PROGRAM, "samplers"], seconds)))


def check_devices(check: Check, seconds: float) -> Results:
    """One device gives the losses of several; a CPU passes for two."""
    two = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip()
    variables = {"XLA_FLAGS": two} if check.platform == "cpu" else {}
    if not variables and check.results.get("device", {}).get("count") == 1:
        raise Skipped("there is only one device")
    words = [PROGRAM, "devices", *check.recipe(RECIPE, smoke=True)]
    return _checked(json.loads(output_of(words, seconds, variables)))


def check_resume(check: Check, seconds: float, *, deterministic: bool) -> Results:
    """Six steps have the same bits as three and, in another process, three more."""
    if deterministic and check.platform not in ("gpu", "cuda", "rocm"):
        raise Skipped("train.deterministic is for GPUs")
    end, name = time.monotonic() + seconds, "deterministic" if deterministic else "default"
    runs = check.folder / f"{name}-whole", check.folder / f"{name}-resumed"
    for workdir, steps in ((runs[0], 6), (runs[1], 3), (runs[1], 6)):
        own = f"train.deterministic={deterministic}", f"train.steps={steps}"
        fields = [f"--config.{field}" for field in (*FIELDS, *own)]
        words = ["main.py", *check.recipe(RECIPE, smoke=True), f"--workdir={workdir}", *fields]
        output_of(words, end - time.monotonic())
    return _checked(json.loads(output_of([PROGRAM, "compare", *runs], end - time.monotonic())))


PARTS = (
    Part("device", check_machine),
    Part("samplers", check_samplers),
    Part("one device = several", check_devices),
    Part("resume, deterministic operations", partial(check_resume, deterministic=True)),
    Part("resume", partial(check_resume, deterministic=False)),
)

if __name__ == "__main__":
    work = {"machine": machine, "samplers": samplers, "devices": devices, "compare": compare}[sys.argv[1]]
    print(json.dumps(work(*sys.argv[2:])))
