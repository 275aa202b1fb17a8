"""Parameters of diffusers' UNet2DModel and of our UNet: the same network with other names and layouts.

    diffusion_pytorch_model.safetensors  <->  params

MODULES, LAYERS and LAYOUTS define the whole mapping in both directions. `diffusers_options.py` maps the architecture,
`diffusers_scheduler.py` the noise schedule.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, PyTree

from ddpm_jax.interop.tensors import TensorFile, by_path, check_names, fill, flat

Tensor = Float[np.ndarray, "..."]

MODULES = {
    r"conv_in": "conv_in",
    r"time_in": "time_embedding.linear_1",
    r"time_out": "time_embedding.linear_2",
    r"labels": "class_embedding",
    r"down_(?P<stage>\d+)_block_(?P<i>\d+)": "down_blocks.{stage}.resnets.{i}",
    r"down_(?P<stage>\d+)_attention_(?P<i>\d+)": "down_blocks.{stage}.attentions.{i}",
    r"down_(?P<stage>\d+)_downsample": "down_blocks.{stage}.downsamplers.0",
    r"middle_block_(?P<i>\d+)": "mid_block.resnets.{i}",
    r"middle_attention": "mid_block.attentions.0",
    r"up_(?P<stage>\d+)_block_(?P<i>\d+)": "up_blocks.{mirrored}.resnets.{i}",
    r"up_(?P<stage>\d+)_attention_(?P<i>\d+)": "up_blocks.{mirrored}.attentions.{i}",
    r"up_(?P<stage>\d+)_upsample": "up_blocks.{mirrored}.upsamplers.0",
    r"norm_out": "conv_norm_out",
    r"conv_out": "conv_out",
}
"""Our modules and theirs; on the way up, they number stages from the smallest image, we from the largest."""
LAYERS = {
    "norm_in": "norm1",
    "conv_in": "conv1",
    "embedding": "time_emb_proj",
    "norm_out": "norm2",
    "conv_out": "conv2",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "out": "to_out.0",
}
"""Our layers of residual blocks and attention, and theirs."""
ONLY_OURS = "augmentation.kernel"
"""Our tensor for the augmentation of training images, without a counterpart: sampling multiplies it by zeros."""
LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight"}
FORMER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Names of the attention layers in files from before 2023, such as google/ddpm-*."""


class Layout(NamedTuple):
    """Conversion of our tensor to their layout, and of theirs to ours."""

    to_theirs: Callable[[Tensor], Tensor]
    to_ours: Callable[[Tensor], Tensor]


SAME = Layout(lambda ours: ours, lambda theirs: theirs)
LAYOUTS = {
    "convolution": Layout(lambda ours: ours.transpose(3, 2, 0, 1), lambda theirs: theirs.transpose(2, 3, 1, 0)),
    "dense": Layout(lambda ours: ours.T, lambda theirs: theirs.T),
    "pointwise": Layout(lambda ours: ours.T[:, :, None, None], lambda theirs: theirs[:, :, 0, 0].T),
}
"""Our kernels are (height, width, in, out), theirs (out, in, height, width). Our 1x1 convolutions are dense layers."""


def their_name(path: str, stages: int) -> str:
    """diffusers' name of our tensor at a dotted path, in a network with this number of stages."""
    module, *layer, leaf = path.split(".")
    matches = ((re.fullmatch(ours, module), theirs) for ours, theirs in MODULES.items())
    match, theirs = next((match, theirs) for match, theirs in matches if match)
    numbers = {name: int(digits) for name, digits in match.groupdict().items()}
    names = [theirs.format(**numbers, mirrored=stages - 1 - numbers.get("stage", 0))]
    if module.endswith("sample") and not layer:  # Resampling by a convolution rather than a residual block.
        names.append("conv")
    return ".".join([*names, *(LAYERS[name] for name in layer), LEAVES[leaf]])


def layout(path: str, rank: int) -> Layout:
    """The layout of our tensor at a dotted path; rank: its number of dimensions."""
    if not path.endswith(".kernel") or path == "labels.kernel":
        return SAME  # Their embedding table and our matrix both have a row per class.
    if path.endswith("shortcut.kernel"):
        return LAYOUTS["pointwise"]
    return LAYOUTS["convolution" if rank == 4 else "dense"]


def tensors_of(params: PyTree, stages: int, null_class: bool) -> dict[str, Tensor]:
    """Our parameters but for ONLY_OURS as diffusers' tensors; null_class appends a class of zeros, for "no label"."""
    ours = {path: leaf for path, leaf in flat(params).items() if path != ONLY_OURS}
    tensors = {their_name(path, stages): layout(path, leaf.ndim).to_theirs(leaf) for path, leaf in ours.items()}
    if null_class:
        table = tensors["class_embedding.weight"]
        tensors["class_embedding.weight"] = np.concatenate([table, np.zeros_like(table[:1])])
    return tensors


def params_of(file: TensorFile, options: Mapping[str, Any], shapes: PyTree) -> PyTree:
    """Their tensors as our parameters, float32, with zeros for ONLY_OURS; shapes: of our parameters.

    Raises UserError with a list of the tensors that are missing, unexpected, or of the wrong shape.
    """
    stages = len(options["block_out_channels"])
    stored = {_present_name(name): name for name in file.shapes}
    found = {name: file.shapes[stored_name] for name, stored_name in stored.items()}
    blank = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in by_path(shapes).items()}
    theirs = {path: leaf for path, leaf in blank.items() if path != ONLY_OURS}
    expected = {
        their_name(path, stages): layout(path, leaf.ndim).to_theirs(leaf).shape for path, leaf in theirs.items()
    }
    if options["num_class_embeds"] is not None:
        expected["class_embedding.weight"] = (options["num_class_embeds"], 4 * options["block_out_channels"][0])
    check_names(found, expected, str(file.path))

    def load(path: str) -> Tensor:
        if path == ONLY_OURS:
            return np.array(blank[path])
        tensor = layout(path, blank[path].ndim).to_ours(file.load(stored[their_name(path, stages)]))
        if path == "time_in.kernel" and options["flip_sin_to_cos"]:
            tensor = np.roll(tensor, len(tensor) // 2, axis=0)  # Their embedding begins with cosines, ours with sines.
        return np.ascontiguousarray(tensor[: blank[path].shape[0]] if path == "labels.kernel" else tensor)

    return fill(shapes, load)


def _present_name(name: str) -> str:
    for present, former in FORMER.items():
        name = re.sub(rf"(\.attentions\.\d+)\.{former}\.", rf"\1.{present}.", name)
    return name
