"""Alpha and 16 bits from the files that are read to the files that are written."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data.batches import Batches
from ddpm_jax.data.open import open_dataset
from ddpm_jax.diffusion.pixels import from_pixels, to_pixels
from ddpm_jax.diffusion.process import q_sample
from ddpm_jax.generation.output import write_images
from tests.commands.sampled import newest, sample, sampled
from tests.data.pictures import config
from tests.interop.toy import random_run


@pytest.mark.parametrize("stream", [False, True])
def test_all_levels_of_16_bits_pass_from_file_to_file_bit_for_bit(tmp_path, linear, stream):
    """File, cache, batch, q_sample at t = 0, pixels, file: no step has fewer levels than the file."""
    ramp = np.arange(2**16, dtype=np.uint16).reshape(4, 128, 128)
    (tmp_path / "ramp").mkdir()
    for i, image in enumerate(ramp):
        Image.fromarray(image).save(tmp_path / "ramp" / f"{i}.{'tiff' if i % 2 else 'png'}")
    options = {"image_size": 128, "channels": 1, "depth": 16, "stream": stream}
    dataset = open_dataset(config(path=str(tmp_path / "ramp"), **options))
    batches = Batches(dataset, np.arange(4), batch_size=4, seed=0)
    x0 = from_pixels(batches(0).images[0])
    noise = np.ones(x0.shape, np.float32)
    images = to_pixels(q_sample(linear, jnp.asarray(x0), jnp.zeros(4, jnp.int32), noise), depth=16)
    write_images(tmp_path, images)
    written = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "images").iterdir())])
    assert written.dtype == np.uint16
    np.testing.assert_array_equal(written, ramp[batches.order(0)])
    np.testing.assert_array_equal(np.load(tmp_path / "samples.npz")["arr_0"][..., 0], written)


@pytest.mark.parametrize(("channels", "depth", "mode", "shown"), [(1, 16, "I;16", "L"), (4, 8, "RGBA", "RGB")])
def test_samples_have_the_channels_and_the_depth_of_the_run_and_pictures_are_for_people(
    tmp_path, channels, depth, mode, shown
):
    data = {"source": "synthetic", "channels": channels, "depth": depth}
    model = {"multipliers": [1], "attention_resolutions": []}
    random_run(tmp_path / "run", data=data, model=model, diffusion={"steps": 2})
    assert sample(tmp_path / "run", count=2) == 0
    folder, images = newest(tmp_path / "run"), sampled(tmp_path / "run")
    assert images.shape == (2, 8, 8, channels) and images.dtype == f"uint{depth}"
    for path, image in zip(sorted((folder / "images").iterdir()), images, strict=True):
        with Image.open(path) as opened:
            assert opened.mode == mode
            np.testing.assert_array_equal(np.asarray(opened).reshape(image.shape), image)
    assert {Image.open(folder / name).mode for name in ("grid.png", "strip.png")} == {shown}
