import numpy as np

from ddpm_jax.config import config_of
from ddpm_jax.generation.draw import batches_of, run_batches
from ddpm_jax.runtime.devices import data_mesh


def compiled(params, seed, indices, labels, inputs):
    """Stands for a compiled Work, and returns its arguments."""
    return {"indices": indices, "labels": labels, "inputs": inputs}


def test_batches_cover_all_images_and_the_last_one_is_padded():
    labels, inputs = np.arange(7) % 3, np.arange(7.0)
    outputs = list(run_batches(compiled, {}, 0, range(0, 7, 3), labels=labels, inputs=inputs))
    assert [kept for _, kept in outputs] == [3, 3, 1]
    for name, expected in (("indices", np.arange(7)), ("labels", labels), ("inputs", inputs)):
        np.testing.assert_array_equal(np.concatenate([batch[name][:kept] for batch, kept in outputs]), expected)
    assert all(len(batch["inputs"]) == 3 for batch, _ in outputs)


def test_a_later_start_gives_the_remaining_batches():
    outputs = list(run_batches(compiled, {}, 0, range(0, 7, 3), start=3, progress_label="Sampling"))
    assert [batch["indices"].tolist() for batch, _ in outputs] == [[3, 4, 5], [6, 7, 8]]


def test_batches_are_no_larger_than_the_number_of_images():
    config = config_of({"sample": {"count": 10, "batch_size": 4}})
    assert batches_of(config, data_mesh()) == range(0, 10, 4)
    assert batches_of(config, data_mesh(), 3) == range(0, 3, 3)
