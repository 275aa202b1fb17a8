"""Speed of each part on this machine, alone or against PyTorch.

    python scripts/benchmark.py train --config=configs/cifar10.py --batch=8     the training step
    python scripts/benchmark.py train --peer=diffusers                          … and diffusers' with the same weights
    python scripts/benchmark.py sample                                          each sampler, with random parameters
    python scripts/benchmark.py data                                            reading, preparing, waiting for data
    python scripts/benchmark.py evaluate --weights=inception.safetensors --peer=pytorch-fid     Inception's features
    python scripts/benchmark.py compile                                         from the command to the first step
    python scripts/benchmark.py chart speed.png train.json sample.json          output of --peer --json as a picture

--config.FIELD=VALUE sets a field of the recipe. Rates are medians of several alternating rounds; machines are
noisy, so compare rates of one run only. The peer needs requirements-peers.txt (pytorch-fid:
requirements-peers-fid.txt), here or in another environment (--peer-python=PATH); the fastest of its variants counts.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.benchmarks.peer import VARIANTS  # noqa: E402

RECIPE = str(Path(__file__).parents[1] / "configs" / "digits.py")


def main() -> None:
    """Measures what the flags select and prints the rates."""
    from ddpm_jax.runtime.cpu import reuse_memory

    flags = checked_flags()
    prepare_environment(flags)
    if flags.command != "data":  # That command measures the growth of memory.
        reuse_memory()  # Like main.py.
    facts = measure(flags)
    if flags.json:
        print(json.dumps(facts))
        return
    for name, value in lines_of(facts):
        print(f"{name:44}{value:>14,.4g}" if isinstance(value, float) else f"{name:44}{value!s:>14}")


def prepare_environment(flags: argparse.Namespace) -> None:
    """Sets environment variables before JAX starts: the number of CPU devices, and no preallocation beside a peer."""
    if getattr(flags, "devices", None):
        fake = f"--xla_force_host_platform_device_count={flags.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {fake}"
    if getattr(flags, "peer", None):
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def checked_flags() -> argparse.Namespace:
    """The flags, with `overrides` of the recipe; raises UserError for flags that would have no effect."""
    from ddpm_jax.errors import UserError

    flags, flags_left = flag_parser().parse_known_args()
    flags.overrides = [flag for flag in flags_left if flag.startswith("--config.") and hasattr(flags, "config")]
    for flag in flags_left:
        if flag not in flags.overrides:
            raise UserError(
                f"{flag} is not a flag of {flags.command}; see scripts/benchmark.py {flags.command} --help."
            )
    for name in ("rounds", "batch", "repeat", "devices"):
        if (value := getattr(flags, name, None)) is not None and value < 1:
            raise UserError(f"--{name}={value} is out of range; expected 1 or more.")
    unknown = set(getattr(flags, "variants", None) or ()) - set(VARIANTS)
    if unknown:
        raise UserError(f"--variants={','.join(sorted(unknown))} do not exist; expected some of {', '.join(VARIANTS)}.")
    if not getattr(flags, "peer", None) and (getattr(flags, "variants", None) or getattr(flags, "peer_python", None)):
        raise UserError("--variants and --peer-python have no effect without --peer.")
    return flags


def flag_parser() -> argparse.ArgumentParser:
    """The flags of each command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    everywhere = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    everywhere.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default 5)")
    everywhere.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    peers = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peers.add_argument("--peer-python", metavar="PATH", help="an interpreter with PyTorch (default: this one)")
    peers.add_argument("--variants", type=lambda text: text.split(","), help=f"some of {', '.join(VARIANTS)} (all)")
    network = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    network.add_argument("--config", default=RECIPE, help="a recipe (default configs/digits.py)")
    network.add_argument("--dtype", choices=("float32", "bfloat16"), help="type of activations (default: the recipe's)")
    network.add_argument("--peer", choices=("diffusers",), help="compare with its network, with the same weights")
    network.add_argument("--repeat", type=int, default=1, help="steps or calls per round (default 1)")
    network.add_argument("--devices", type=int, help="number of devices, simulated on a CPU (default: all)")

    data = commands.add_parser("data", parents=[everywhere], help="from files to the cache, and on to the device")
    data.add_argument("--images", type=int, default=20_000, help="images in the cached set (default 20000)")
    data.add_argument("--files", type=int, default=4_000, help="JPEG files to prepare (default 4000)")
    data.add_argument("--steps", type=int, default=20, help="training steps that measure the wait (20; 0: none)")
    for name, text in (("train", "the training step"), ("sample", "each sampler, without compilation")):
        command = commands.add_parser(name, parents=[network, peers, everywhere], help=text)
        command.add_argument("--batch", type=int, default=64, help="images at once (default 64)")
    evaluate = commands.add_parser("evaluate", parents=[peers, everywhere], help="features of images of 32x32")
    evaluate.add_argument("--features", default="inception-768", help="(default inception-768)")
    evaluate.add_argument("--weights", type=Path, required=True, help="Inception's weights, a .safetensors file")
    evaluate.add_argument("--peer", choices=("pytorch-fid",), help="compare with its network")
    start = commands.add_parser("compile", parents=[everywhere], help="from the command to the first training step")
    start.add_argument("--config", default=RECIPE, help="a recipe (default configs/digits.py)")
    start.add_argument("--batch", type=int, default=8, help="images in a step (default 8)")
    commands.add_parser("convolution", parents=[everywhere], help="Winograd's 3x3 convolutions beside direct ones")
    chart = commands.add_parser("chart", help="a picture of comparisons with a peer")
    chart.add_argument("picture", type=Path, help="the PNG to write")
    chart.add_argument("results", type=Path, nargs="+", help="files with the output of --peer --json")
    chart.set_defaults(json=False)
    return parser


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Runs a command, whose module is imported only then."""
    if flags.command == "data":
        from scripts.benchmarks.data import measure_data as work
    elif flags.command == "train":
        from scripts.benchmarks.network import measure_training as work
    elif flags.command == "sample":
        from scripts.benchmarks.network import measure_samplers as work
    elif flags.command == "evaluate":
        from scripts.benchmarks.features import measure_features as work
    elif flags.command == "convolution":
        from scripts.benchmarks.convolution import measure_convolutions as work
    elif flags.command == "chart":
        from scripts.benchmarks.chart import draw_comparisons as work
    else:
        from scripts.benchmarks.start import measure_start as work
    return work(flags)


def lines_of(facts: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each measurement with its full name."""
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from lines_of(value, f"{prefix}{name} · ")
        else:
            yield prefix + name, value


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import end_process, exit_code

    end_process(exit_code(main))
