"""Random weights of Inception."""

import numpy as np

from ddpm_jax.evaluation.weights import param_shapes
from ddpm_jax.interop.tensors import by_path


def random_weights(draw, layer) -> dict[str, np.ndarray]:
    """Random tensors under pytorch-fid's names, with batch norms that are not the identity."""
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
