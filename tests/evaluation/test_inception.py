"""Inception's weights from made-up files: folding, what is served, what is refused. The network itself is compared with
pytorch-fid's where that is installed, and with its features of real images where these are at hand.
"""

from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import weights as weights_module
from ddpm_jax.evaluation.features import features_of, open_extractor
from ddpm_jax.evaluation.inception import Inception, prepared
from ddpm_jax.evaluation.weights import param_shapes, read_weights
from ddpm_jax.interop.tensors import by_path

SHARED = Path(__file__).parents[3] / "shared" / "data"
REAL = SHARED / "inception_2015_12_05_to_mixed_6e.safetensors"


def made_up(draw, layer) -> dict[str, np.ndarray]:
    """Random tensors under pytorch-fid's names, with batch norms that do something."""
    tensors = {}
    for path, leaf in by_path(param_shapes(layer)).items():
        module = path.rpartition(".")[0]
        if module == "fc":
            tensors["fc.weight"] = draw.normal(size=leaf.shape[::-1]) * 0.05
        elif path.endswith(".kernel"):
            height, width, inputs, outputs = leaf.shape
            fan_in = height * width * inputs
            tensors[f"{module}.weight"] = draw.normal(size=(outputs, inputs, height, width)) * (2.0 / fan_in) ** 0.5
            norm = module.removesuffix(".conv") + ".bn"
            for part, low, high in (("weight", 0.8, 1.2), ("bias", -0.1, 0.1), ("running_mean", -0.1, 0.1)):
                tensors[f"{norm}.{part}"] = draw.uniform(low, high, outputs)
            tensors[f"{norm}.running_var"] = draw.uniform(0.8, 1.2, outputs)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


@pytest.fixture
def stem(tmp_path, draw):
    path = tmp_path / "inception.safetensors"
    save_file(made_up(draw, 192), path)
    return path


def test_batch_norms_are_folded_in(stem, draw):
    """The first convolution, norm and ReLU written out."""
    from safetensors.numpy import load_file

    tensors, params = load_file(stem), read_weights(stem, 64)
    x = draw.uniform(-1, 1, (1, 7, 7, 3)).astype(np.float32)
    patches = np.lib.stride_tricks.sliding_window_view(x[0], (3, 3), axis=(0, 1))[::2, ::2]
    name = "Conv2d_1a_3x3"
    convolved = np.einsum("yxcij,ocij->yxo", patches, tensors[f"{name}.conv.weight"])
    norm = {part: tensors[f"{name}.bn.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
    expected = (convolved - norm["running_mean"]) / np.sqrt(norm["running_var"] + 0.001) * norm["weight"] + norm["bias"]
    kernel, bias = params[name]["conv"]["kernel"], params[name]["conv"]["bias"]
    ours = np.einsum("yxcij,ijco->yxo", patches, kernel) + bias
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_layers_that_a_file_lacks_are_refused_with_what_it_serves(stem):
    with pytest.raises(UserError, match=r"lacks Mixed_5b.branch1x1.conv.weight.*serves inception-64, inception-192\."):
        read_weights(stem, 768)
    with pytest.raises(UserError, match="is no file; expected Inception's weights"):
        read_weights(stem.with_name("none.safetensors"), 64)
    stem.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_weights(stem, 64)


def test_the_standard_file_is_fetched_verified_and_never_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "user_cache", lambda name: tmp_path / "cache")
    monkeypatch.setattr(weights_module, "URL", (tmp_path / "nothing.pth").as_uri())
    with pytest.raises(UserError, match="cannot be fetched from .* give their path as weights"):
        read_weights(None, 64)
    (tmp_path / "nothing.pth").write_bytes(b"something else")
    with pytest.raises(UserError, match="has the checksum .*, expected 6726825d"):
        read_weights(None, 64)


def test_features_do_not_depend_on_their_batch_and_grey_is_three_colours(stem, draw):
    extractor = open_extractor("inception-64", stem)
    images = draw.integers(0, 256, (70, 12, 12, 1), dtype=np.uint8)
    features = np.concatenate([part for part, _ in features_of(extractor, images, "")])
    assert features.shape == (70, 64) and extractor.distance == "FID-64"
    one_image = Inception(64).apply({"params": read_weights(stem, 64)}, prepared(images[[69]].repeat(3, axis=-1)))
    np.testing.assert_allclose(features[69:], np.asarray(one_image), rtol=1e-4, atol=1e-6)


def test_images_are_resized_as_pytorch_does_it():
    """Half-pixel centres, clamped at the border, no antialiasing: a ramp stays a ramp between the outer centres."""
    ramp = np.broadcast_to(np.arange(0, 250, 10, dtype=np.uint8).reshape(1, 1, 25, 1), (1, 25, 25, 3))
    row = np.asarray(prepared(ramp))[0, 150, :, 0]
    centres = np.clip((np.arange(299) + 0.5) * 25 / 299 - 0.5, 0, 24)
    np.testing.assert_allclose(row, 2 * centres * 10 / 255 - 1, atol=1e-5)


@pytest.mark.skipif(not REAL.exists(), reason="needs the weights in ../shared/data")
def test_real_features_are_those_of_pytorch_fid():
    reference = np.load(SHARED / "fid768_reference.npz")
    params = read_weights(REAL, 768)
    features = jax.jit(lambda p, x: Inception(768).apply({"params": p}, prepared(x)))(params, reference["images"])
    np.testing.assert_allclose(features, reference["features"], rtol=1e-4, atol=1e-5)
