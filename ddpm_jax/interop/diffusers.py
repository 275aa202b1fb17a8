"""diffusers' UNet2DModel and our UNet: one network under two sets of names, in two layouts.

    diffusion_pytorch_model.safetensors  <->  params

MODULES, PARTS and LAYOUTS are the whole mapping, and both directions are read off them. `diffusers_options.py` says
which network it is, `diffusers_scheduler.py` with which noise.
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
"""Our modules and theirs; they count the stages of the way up from the smallest image, we from the largest."""
PARTS = {
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
"""The layers of residual blocks and attention."""
LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight"}
FORMER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Names of attention's layers in files of before 2023, such as those of google/ddpm-*."""


class Layout(NamedTuple):
    """The transposition of a tensor of ours into theirs, and back."""

    outward: Callable[[Tensor], Tensor]
    inward: Callable[[Tensor], Tensor]


SAME = Layout(lambda ours: ours, lambda theirs: theirs)
LAYOUTS = {
    "convolution": Layout(lambda ours: ours.transpose(3, 2, 0, 1), lambda theirs: theirs.transpose(2, 3, 1, 0)),
    "dense": Layout(lambda ours: ours.T, lambda theirs: theirs.T),
    "pointwise": Layout(lambda ours: ours.T[:, :, None, None], lambda theirs: theirs[:, :, 0, 0].T),
}
"""Height, width, in, out here; out, in, height, width there. A 1x1 convolution is a dense layer here."""


def their_name(path: str, stages: int) -> str:
    """The name that diffusers gives the tensor at a dotted path of ours, in a network of so many stages."""
    module, *part, leaf = path.split(".")
    matches = ((re.fullmatch(ours, module), theirs) for ours, theirs in MODULES.items())
    match, theirs = next((match, theirs) for match, theirs in matches if match)
    numbers = {name: int(digits) for name, digits in match.groupdict().items()}
    names = [theirs.format(**numbers, mirrored=stages - 1 - numbers.get("stage", 0))]
    if module.endswith("sample") and not part:  # A convolution, where it is no residual block.
        names.append("conv")
    return ".".join([*names, *(PARTS[name] for name in part), LEAVES[leaf]])


def layout(path: str, rank: int) -> Layout:
    """The layout of the tensor at a dotted path of ours."""
    if not path.endswith(".kernel") or path == "labels.kernel":
        return SAME  # Their table of classes has a row for each, as our matrix has.
    if path.endswith("shortcut.kernel"):
        return LAYOUTS["pointwise"]
    return LAYOUTS["convolution" if rank == 4 else "dense"]


def tensors_of(params: PyTree, stages: int, null_class: bool) -> dict[str, Tensor]:
    """Our parameters as diffusers' tensors; null_class adds a last class that adds nothing: "no label"."""
    tensors = {their_name(path, stages): layout(path, leaf.ndim).outward(leaf) for path, leaf in flat(params).items()}
    if null_class:
        table = tensors["class_embedding.weight"]
        tensors["class_embedding.weight"] = np.concatenate([table, np.zeros_like(table[:1])])
    return tensors


def params_of(file: TensorFile, options: Mapping[str, Any], shapes: PyTree) -> PyTree:
    """Their tensors as our parameters, float32; shapes: those of our parameters.

    Raises UserError that lists every tensor that is missing, not expected, or of the wrong shape.
    """
    stages = len(options["block_out_channels"])
    found, stored = _by_their_name(file)
    blank = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in by_path(shapes).items()}
    expected = {their_name(path, stages): layout(path, leaf.ndim).outward(leaf).shape for path, leaf in blank.items()}
    if options["num_class_embeds"] is not None:
        expected["class_embedding.weight"] = (options["num_class_embeds"], 4 * options["block_out_channels"][0])
    check_names(found, expected, str(file.path))

    def load(path: str) -> Tensor:
        tensor = layout(path, blank[path].ndim).inward(file.load(stored[their_name(path, stages)]))
        if path == "time_in.kernel" and options["flip_sin_to_cos"]:
            tensor = np.roll(tensor, len(tensor) // 2, axis=0)  # Cosines first there, sines first here.
        return np.ascontiguousarray(tensor[: blank[path].shape[0]] if path == "labels.kernel" else tensor)

    return fill(shapes, load)


def _by_their_name(file: TensorFile) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The shapes of a file's tensors, and the names they are stored under, both by their present names."""
    stored = {}
    for name in file.shapes:
        present = name
        for now, former in FORMER.items():
            present = re.sub(rf"(\.attentions\.\d+)\.{former}\.", rf"\1.{now}.", present)
        stored[present] = name
    return {present: file.shapes[name] for present, name in stored.items()}, stored
