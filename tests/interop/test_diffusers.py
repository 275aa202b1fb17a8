"""The mapping of parameters to diffusers' tensors is one-to-one and invertible."""

import numpy as np

from ddpm_jax.builders import param_shapes
from ddpm_jax.interop.diffusers import layout, their_name
from ddpm_jax.interop.tensors import by_path
from tests.interop.toy import config


def test_every_tensor_has_its_own_name():
    settings = config(model={"classes": 3})
    names = [their_name(path, 2) for path in by_path(param_shapes(settings))]
    assert len(set(names)) == len(names)
    assert {"up_blocks.0.upsamplers.0.conv.weight", "mid_block.attentions.0.to_out.0.bias"} <= set(names)
    assert "down_blocks.1.attentions.0.group_norm.weight" in names and "up_blocks.0.attentions.1.to_q.bias" in names


def test_layouts_are_inverse():
    paths = by_path(param_shapes(config(model={"classes": 3})))
    for path, leaf in paths.items():
        ours = np.random.default_rng(0).normal(size=leaf.shape).astype(np.float32)
        convert = layout(path, ours.ndim)
        np.testing.assert_array_equal(convert.to_ours(convert.to_theirs(ours)), ours)
    kernel = np.zeros((3, 3, 5, 7), np.float32)
    assert layout("conv_in.kernel", 4).to_theirs(kernel).shape == (7, 5, 3, 3)
    assert layout("down_0_block_0.shortcut.kernel", 2).to_theirs(kernel[0, 0]).shape == (7, 5, 1, 1)
