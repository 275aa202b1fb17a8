"""The report of the check as Markdown, with tables for docs/benchmarks.md."""

from collections.abc import Iterable, Sequence
from typing import Any

from ddpm_jax.errors import shell_command
from scripts.accelerator import laws, speed, training

Facts = dict[str, Any]


def markdown(facts: Facts) -> str:
    """The whole report; facts: the object of check.json."""
    parts = {part["part"]: part for part in facts["parts"]}
    sections = {
        "Parts": table(
            ("part", "status", "seconds", "reason"),
            ((p["part"], p["status"], p["seconds"], p["reason"].replace("|", "/")) for p in parts.values()),
        ),
        "Laws": law_table(parts),
        "Speed": speed_table(parts),
        "Against diffusers": peer_table(parts),
        "Training": training_text(parts),
        "Parameters": pieces_text(parts),
    }
    body = "\n\n".join(f"## {title}\n\n{text or 'Nothing was measured.'}" for title, text in sections.items())
    return f"# An accelerator\n\n{heading(facts)}\n\n{body}\n"


def heading(facts: Facts) -> str:
    """The date, the machine and the versions in one sentence."""
    machine = results_of({part["part"]: part for part in facts["parts"]}, "device")
    names = ("python", "jax", "jaxlib", "flax")
    about = [f"{machine['count']} x {machine['device']}", *(f"{n} {machine[n]}" for n in names)] if machine else []
    toy = " Toy sizes: the numbers say nothing about speed or quality." if facts["quick"] else ""
    known, _, changed = (facts["commit"] or "").partition("-")
    commit = [f"commit {known[:12]}" + (" with changes" if changed else "")] if known else []
    return (
        f"{', '.join([facts['date'], *about, *commit])}; `scripts/check_accelerator.py`, {facts['seconds']:.0f} s.{toy}"
    )


def results_of(parts: Facts, name: str) -> Facts:
    """The results of a part; empty if it is not ok."""
    return parts.get(name, {}).get("results", {})


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; "" without rows."""
    lines = [f"| {' | '.join(map(text_of, row))} |" for row in rows]
    rule = f"|{'---|' * len(header)}"
    return "\n".join([f"| {' | '.join(header)} |", rule, *lines]) if lines else ""


def text_of(value: Any) -> str:
    """A cell: floats with at least three significant digits, "–" for None."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "–" if value is None else str(value)


def law_table(parts: Facts) -> str:
    """Each law with its error."""
    names = [part.name for part in laws.PARTS]
    found = [(name, *law) for name in names for law in results_of(parts, name).get("laws", {}).items()]
    return table(
        ("part", "law", "error", "limit"), ((part, name, law["error"], law["limit"]) for part, name, law in found)
    )


def speed_table(parts: Facts) -> str:
    """Rates and memory of training and sampling."""
    rows = []
    for part in speed.PARTS:
        if facts := results_of(parts, part.name):
            ours = facts.get("ours", facts)
            rows.append(
                (
                    *(part.name, facts["recipe"], facts["batch"], ours["images_per_second"], ours.get("spread")),
                    *(thousandth(ours.get("gigaflop_per_second")), ours.get("share_of_matrix_product")),
                    *(gibibytes(ours["peak_memory_mebibytes"]), ours.get("compile_seconds")),
                )
            )
    head = ("part", "recipe", "batch", "images/s", "spread", "TFLOP/s", "of a matrix product", "GiB", "compiling, s")
    return table(head, rows)


def peer_table(parts: Facts) -> str:
    """Both sides by turns, or the reason for their absence."""
    rows = []
    for part in speed.PEER_PARTS:
        if facts := results_of(parts, part.name):
            ours, peer = facts["ours"], facts["peer"]
            sides = (ours["images_per_second"], peer["images_per_second"], facts["ratio"])
            memory = gibibytes(ours["peak_memory_mebibytes"]), gibibytes(peer["peak_memory_mebibytes"])
            rows.append((part.name, facts["batch"], f"{peer['name']}, {peer['variant']}", *sides, *memory))
    head = ("part", "batch", "peer", "our images/s", "its images/s", "ratio", "our GiB", "its GiB")
    reasons = {parts[part.name]["reason"] for part in speed.PEER_PARTS if part.name in parts} - {""}
    return table(head, rows) or "\n".join(sorted(reasons))


def training_text(parts: Facts) -> str:
    """Losses, rates and FID of the run."""
    facts = results_of(parts, "train")
    if not facts:
        return ""
    names = ("train_loss", "validation_loss_ema", "validation_loss_raw")
    points = {
        **{name.replace("_", " "): facts[name] for name in names},
        "share of a matrix product's rate": facts["share_of_matrix_product"],
        "peak memory, MiB": facts["peak_memory_mebibytes"],
    }
    rows = [(name, point["value"], point["step"]) for name, point in points.items() if point]
    rows += [("images/s", facts["images_per_second"], facts["steps"])]
    for part in training.PARTS:
        if (found := results_of(parts, part.name)) and "fid" in found:
            rows.append((f"{found['distance']} of {found['samples']} samples (DDIM)", found["fid"], found["step"]))
    reference = facts["reference"]
    note = (
        f"{facts['steps']:,} steps. A training loss of about {reference['loss']} is reported elsewhere for cifar10 "
        f"after {reference['steps']:,} steps of {reference['batch']} images; it applies at that many steps only."
    )
    grid = "\n\n![64 samples](grid.png)" if results_of(parts, "grid") else ""
    return f"{note}\n\n{table(('', 'value', 'at step'), rows)}{grid}"


def pieces_text(parts: Facts) -> str:
    """How to join the pieces of the parameters and import them."""
    facts = results_of(parts, "EMA parameters")
    if not facts:
        return ""
    name, run = training.MODEL, "runs/imported"
    commands = (
        f"cat {name}.[0-9]* >{name}",
        shell_command("python", "scripts/import_safetensors.py", name, run),
        shell_command("python", "main.py", "--mode=sample", f"--workdir={run}"),
    )
    about = f"{len(facts['pieces'])} piece(s), {facts['bytes']:,} bytes, SHA-256 {facts['sha256']} when joined."
    return "\n".join((f"EMA parameters in bfloat16: {about}\n", *(f"    {command}" for command in commands)))


def gibibytes(mebibytes: float | None) -> float | None:
    """MiB in GiB."""
    return None if mebibytes is None else mebibytes / 1024


def thousandth(giga: float | None) -> float | None:
    """GFLOP/s in TFLOP/s."""
    return None if giga is None else giga / 1000
