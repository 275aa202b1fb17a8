import numpy as np
import pytest
from safetensors.numpy import load_file

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import weights as weights_module
from ddpm_jax.evaluation.weights import read_weights


def test_a_folded_convolution_equals_the_convolution_and_its_batch_norm(stem, draw):
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


def test_a_layer_that_a_file_lacks_is_refused_with_the_layers_that_it_serves(stem):
    with pytest.raises(UserError, match=r"lacks Mixed_5b.branch1x1.conv.weight.*serves inception-64, inception-192\."):
        read_weights(stem, 768)
    with pytest.raises(UserError, match="is not a file; expected Inception's weights"):
        read_weights(stem.with_name("none.safetensors"), 64)
    stem.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_weights(stem, 64)


def test_the_standard_file_is_refused_where_it_cannot_be_fetched_or_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "user_cache", lambda name: tmp_path / "cache")
    monkeypatch.setattr(weights_module, "URL", (tmp_path / "nothing.pth").as_uri())
    with pytest.raises(UserError, match="cannot be fetched from .* give their path as weights"):
        read_weights(None, 64)
    (tmp_path / "nothing.pth").write_bytes(b"something else")
    with pytest.raises(UserError, match="has the checksum .*, expected 6726825d"):
        read_weights(None, 64)
