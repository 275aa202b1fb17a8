import numpy as np
import pytest

from ddpm_jax.builders import build_schedule, param_shapes
from ddpm_jax.config import config_of
from ddpm_jax.diffusion.likelihood import bits_per_dim
from ddpm_jax.generation.draw import batches_of, compile_work, run_batches
from ddpm_jax.runtime.devices import data_mesh
from tests.training.toy import CONFIG


def compiled(params, seed, indices, labels, inputs, conditions):
    """Stands for a compiled Work, and returns its arguments."""
    return {"indices": indices, "labels": labels, "inputs": inputs, "conditions": conditions}


def test_batches_cover_all_images_and_the_last_one_is_padded():
    labels, inputs, conditions = np.arange(7) % 3, np.arange(7.0), np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    given = {"labels": labels, "inputs": inputs, "conditions": conditions}
    outputs = list(run_batches(compiled, {}, 0, range(0, 7, 3), **given))
    assert [kept for _, kept in outputs] == [3, 3, 1]
    for name, expected in {"indices": np.arange(7), **given}.items():
        np.testing.assert_array_equal(np.concatenate([batch[name][:kept] for batch, kept in outputs]), expected)
    assert all(len(batch["inputs"]) == 3 for batch, _ in outputs)


def test_a_later_start_gives_the_remaining_batches():
    outputs = list(run_batches(compiled, {}, 0, range(0, 7, 3), start=3, progress_label="Sampling"))
    assert [batch["indices"].tolist() for batch, _ in outputs] == [[3, 4, 5], [6, 7, 8]]


def test_batches_are_no_larger_than_the_number_of_images():
    config = config_of({"sample": {"count": 10, "batch_size": 4}})
    assert batches_of(config, data_mesh()) == range(0, 10, 4)
    assert batches_of(config, data_mesh(), 3) == range(0, 3, 3)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_exact_work_is_computed_with_the_precision_of_float32(platform):
    """Such as the variational bound's; samples have the speed of the platform's default."""

    def bound(denoiser, keys, x0):
        return bits_per_dim(denoiser, build_schedule(CONFIG), x0, keys)

    arguments = (param_shapes(CONFIG), 0, np.arange(2), None, np.zeros((2, 8, 8, 1), np.float32))
    for exact in (True, False):
        text = compile_work(CONFIG, data_mesh(), bound, exact=exact).lower(*arguments, platform=platform).as_text()
        products = [line for line in text.splitlines() if "stablehlo.dot_general" in line or "convolution(" in line]
        assert len(products) > 20 and {line.count("HIGHEST") for line in products} == {2 if exact else 0}
