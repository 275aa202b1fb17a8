"""PyTorch and what is built on it, for the tests that compare with it; they are skipped where it is missing."""

from types import ModuleType

import pytest

REASON = "needs PyTorch and its libraries: pip install -r requirements-peers.txt -r requirements-peers-fid.txt"


def peer(name: str) -> ModuleType:
    """A module such as "diffusers", or a skipped test."""
    torch = pytest.importorskip("torch", reason=REASON)
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:
        # The torchvision of PyPI is built for CUDA: beside a PyTorch for the CPU its operators do not load. None of
        # them is used here, but these must have a name before it can be imported.
        for missing in ("nms", "qnms"):
            OPERATORS.append(torch.library.Library("torchvision", "FRAGMENT"))
            OPERATORS[-1].define(f"{missing}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return pytest.importorskip(name, reason=REASON)


OPERATORS: list = []
"""They last as long as these objects."""
