"""The peers of scripts/benchmark.py, diffusers and pytorch-fid, in a process with PyTorch.

    python scripts/benchmarks/pytorch.py '{"work": "train", "model": "folder", "variant": "compiled", …}'

prints a line of JSON when it is ready, and one with the seconds of the work for each line that it reads. It does not
import ddpm_jax, so that it runs in any environment with PyTorch.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from scripts.benchmarks.resident import forget_peak, peak_mebibytes  # noqa: E402

Work = Callable[[], Any]


def main() -> None:
    """Prepares the work that the first argument describes, then does it once for each line of the input."""
    spec, answers = json.loads(sys.argv[1]), sys.stdout
    sys.stdout = sys.stderr  # Libraries print; standard output is for the answers only.
    torch.manual_seed(0)
    if torch.cuda.is_available():  # Like JAX: float32 products in TF32, and cuDNN's fastest convolutions.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    names = make_importable()
    work, name = {"train": training, "sample": sampling, "features": features}[spec["work"]](spec)
    start = time.perf_counter()
    work()
    forget_peak()
    facts = {"name": name, "torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps({**facts, "first_seconds": time.perf_counter() - start}), file=answers, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(spec.get("repeat", 1)):
            work()
        synchronise()
        print(json.dumps({"seconds": time.perf_counter() - start, "memory": peak_memory()}), file=answers, flush=True)
    del names


def make_importable() -> torch.library.Library | None:
    """Makes torchvision, if installed, importable where it is built for CUDA (as PyPI's is) and PyTorch for the CPU.

    Unused operators are undefined in that case; they are defined as long as the returned library exists.
    """
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:  # Only pytorch-fid needs it, and raises an error of its own.
        return None
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for missing in ("nms", "qnms"):
            library.define(f"{missing}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


def device() -> torch.device:
    """The accelerator, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise() -> None:
    """Waits for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> float | None:
    """Peak in MiB of the device's arrays, or on a CPU of the resident memory."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else peak_mebibytes()


def arrange(module: torch.nn.Module, variant: str) -> torch.nn.Module:
    """The module on the device, in the variant's memory format."""
    module = module.to(device())
    return module.to(memory_format=torch.channels_last) if "channels_last" in variant else module


def compile_if_asked(module: torch.nn.Module, variant: str) -> None:
    """Compiles the module on its first call for those very shapes, if the variant is compiled."""
    if "compiled" in variant:
        module.compile(dynamic=False)


def layout(spec: dict[str, Any]) -> torch.memory_format:
    """Memory format of images."""
    return torch.channels_last if "channels_last" in spec["variant"] else torch.contiguous_format


def open_unet(spec: dict[str, Any]) -> Any:
    """The exported network in its variant; writes its outputs for given inputs, for the comparison with ours."""
    import diffusers

    unet = arrange(diffusers.UNet2DModel.from_pretrained(Path(spec["model"]) / "unet").eval(), spec["variant"])
    with torch.no_grad(), autocast(spec), np.load(spec["inputs"]) as given:
        x_t, t = (torch.from_numpy(given[name]).to(device()) for name in ("x_t", "t"))
        output = unet(x_t.permute(0, 3, 1, 2).contiguous(memory_format=layout(spec)), t - 1).sample
        np.save(spec["outputs"], output.float().permute(0, 2, 3, 1).cpu().numpy())
    compile_if_asked(unet, spec["variant"])
    return unet


def autocast(spec: dict[str, Any]) -> torch.autocast:
    """The arithmetic of the network."""
    return torch.autocast(device().type, torch.bfloat16, enabled=spec["dtype"] == "bfloat16")


def training(spec: dict[str, Any]) -> tuple[Work, str]:
    """One training step: noise, loss, gradient, clipping, Adam, EMA."""
    import diffusers

    unet = open_unet(spec).train()
    scheduler = diffusers.DDPMScheduler.from_pretrained(Path(spec["model"]) / "scheduler")
    parameters = list(unet.parameters())
    ema = [parameter.detach().clone() for parameter in parameters]
    adam = torch.optim.Adam(parameters, lr=spec["learning_rate"], fused=True)
    with np.load(spec["inputs"]) as given:
        pixels = torch.from_numpy(given["pixels"]).to(device()).permute(0, 3, 1, 2)
    kind, total = scheduler.config.prediction_type, scheduler.config.num_train_timesteps

    def work() -> None:
        x0 = (pixels.float() / 127.5 - 1.0).contiguous(memory_format=layout(spec))
        noise, t = torch.randn_like(x0), torch.randint(0, total, (len(x0),), device=x0.device)
        x_t = scheduler.add_noise(x0, noise, t)
        target = {"epsilon": noise, "sample": x0}.get(kind)
        if target is None:
            target = scheduler.get_velocity(x0, noise, t)
        with autocast(spec):
            output = unet(x_t, t).sample
        adam.zero_grad()
        torch.nn.functional.mse_loss(output.float(), target).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(ema, parameters, 1e-4)

    return work, f"diffusers {diffusers.__version__}"


def sampling(spec: dict[str, Any]) -> tuple[Work, str]:
    """Sampling of a batch of images by the DDIM pipeline."""
    import diffusers

    unet = open_unet(spec)
    scheduler = diffusers.DDIMScheduler.from_pretrained(Path(spec["model"]) / "scheduler")
    pipeline = diffusers.DDIMPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)

    def work() -> None:
        with torch.no_grad(), autocast(spec):
            pipeline(batch_size=spec["batch"], num_inference_steps=spec["steps"], output_type="np")

    return work, f"diffusers {diffusers.__version__}"


def features(spec: dict[str, Any]) -> tuple[Work, str]:
    """Features of a batch of images by pytorch-fid's network."""
    from importlib.metadata import version

    from pytorch_fid import inception
    from safetensors.torch import load_file

    warnings.simplefilter("ignore", UserWarning)  # From pytorch-fid's call of torchvision.
    network: Any = inception._inception_v3(num_classes=1008, aux_logits=False, pretrained=False)
    for name, pooled in (("5b", 32), ("5c", 64), ("5d", 64)):
        setattr(network, f"Mixed_{name}", inception.FIDInceptionA({"5b": 192, "5c": 256, "5d": 288}[name], pooled))
    for name, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        setattr(network, f"Mixed_{name}", inception.FIDInceptionC(768, channels_7x7=inner))
    network.Mixed_7b, network.Mixed_7c = inception.FIDInceptionE_1(1280), inception.FIDInceptionE_2(2048)
    if spec["weights"]:
        network.load_state_dict(load_file(spec["weights"]), strict=False)
    inception.fid_inception_v3 = lambda: network  # Instead of its download.
    block = inception.InceptionV3.BLOCK_INDEX_BY_DIM[spec["dimensions"]]
    wrapped = arrange(inception.InceptionV3([block]).eval(), spec["variant"])
    compile_if_asked(wrapped, spec["variant"])
    with np.load(spec["inputs"]) as given:
        pixels = given["pixels"]

    def extract() -> np.ndarray:
        with torch.no_grad():
            images = torch.from_numpy(pixels).to(device()).permute(0, 3, 1, 2).float() / 255.0
            (maps,) = wrapped(images.contiguous(memory_format=layout(spec)))
            return maps.mean(dim=(2, 3)).cpu().numpy()

    np.save(spec["outputs"], extract())
    return extract, f"pytorch-fid {version('pytorch-fid')}"


if __name__ == "__main__":
    main()
