"""Tensors are read as finite float32, and files are compared with the expected tensors."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ddpm_jax.errors import UserError
from ddpm_jax.interop.tensors import TensorFile, by_path, check_names, fill, flat, write_tensors
from tests.interop.toy import imported

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_a_tree_is_rebuilt_from_its_flat_tensors(tmp_path):
    tree = {"a": {"kernel": np.ones((2, 3), np.float32)}, "b": {"bias": np.arange(4, dtype=np.float32)}}
    write_tensors(tmp_path / "model.safetensors", flat(tree), {"format": "test"})
    file = TensorFile(tmp_path / "model.safetensors")
    assert list(by_path(tree)) == ["a.kernel", "b.bias"] and file.metadata == {"format": "test"}
    check_names(file.shapes, {"a.kernel": (2, 3), "b.bias": (4,)}, "here")
    for path, leaf in by_path(fill(tree, file.load)).items():
        np.testing.assert_array_equal(leaf, by_path(tree)[path])


def test_all_different_tensors_are_listed(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["extra.weight"] = tensors.pop("conv_in.weight")
    tensors["conv_out.bias"] = np.zeros(3, np.float32)
    del tensors["mid_block.resnets.0.conv1.weight"]
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UserError) as caught:
        imported(folder)
    for words in (
        "missing: conv_in.weight, mid_block.resnets.0.conv1.weight;",
        "not expected: extra.weight;",
        "of the wrong shape: conv_out.bias (3,), expected (1,).",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("kind", ["float16", "int32"])
def test_half_precision_is_widened_and_integers_are_refused(folder, kind):
    tensors = {name: tensor.astype(kind) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    if kind == "int32":
        with pytest.raises(UserError, match="has type I32; expected F16, BF16, F32 or F64"):
            imported(folder)
        return
    _, params = imported(folder)
    np.testing.assert_array_equal(params["conv_in"]["bias"], tensors["conv_in.bias"].astype(np.float32))
    assert params["conv_in"]["bias"].dtype == np.float32


def test_non_finite_weights_are_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["conv_in.bias"][0] = np.nan
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UserError, match="conv_in.bias contains non-finite numbers; the file is damaged"):
        imported(folder)


def test_files_have_the_permissions_of_the_umask(folder):
    assert (folder / WEIGHTS).stat().st_mode == (folder / "README.md").stat().st_mode
