"""README, CONTRIBUTING, SECURITY and docs/ can be followed: links lead somewhere, commands name what there is."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.commands.cli import parse_flags
from ddpm_jax.config import Config, defaults, flatten, load_recipe, override
from ddpm_jax.diffusion.schedule import betas_of_curve, schedule_of_betas
from ddpm_jax.reporting.writer import GROUPS, tag
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.loop import SCAN
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.timesteps import step_pairs
from ddpm_jax.shapes import Betas
from ddpm_jax.training.step import METRICS
from scripts.write_reference import PAGES as GENERATED
from tests.analytic import gaussian_denoiser
from tests.end_to_end.commands import ROOT

PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[str]:
    """The commands in a page's indented blocks, fences, tables and sentences; continued lines are joined."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^(?:    |\$ )(.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines += block.splitlines()
    lines = [re.split(r"\s{3,}|\s&&\s|\s#", line.strip())[0] for line in lines]
    return [line for line in lines if re.match(r"(\w+=\S* )*(\S*python3?|sbatch|scripts/\S+) ", line)]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match("https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_name_what_there_is(page):
    for command in commands(page):
        words = [word for word in shlex.split(command) if "…" not in word]
        while "=" in words[0] and not words[0].startswith("-"):
            words.pop(0)
        program, *rest = words if not words[0].endswith("python") else words[1:]
        if program == "main.py":
            check_main(command, rest)
        elif program.startswith("scripts/"):
            assert (ROOT / program).is_file(), command
            source = "".join(
                path.read_text() for path in [ROOT / program, *(ROOT / "scripts/fault_injection").glob("*.py")]
            )
            for flag in (word.split("=")[0] for word in rest if word.startswith("--")):
                assert flag.startswith("--config") or flag in source or flag in ("--workdir", "--mode"), command


def check_main(command: str, flags: list[str]) -> None:
    """The recipe exists, and each field."""
    parsed = parse_flags(["main.py", *flags, "--workdir=unused"])
    config = load_recipe(str(ROOT / parsed.recipe)) if parsed.recipe else defaults()
    override(config, [flag for flag in parsed.overrides if flag.partition("=")[2]]), command


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_fields_that_are_named_exist(page):
    text, known = page.read_text(), flatten(Config())
    sections = "|".join(field.name for field in dataclasses.fields(Config) if field.name != "seed")
    named = re.findall(r"--config\.([a-z_0-9.]+)=", text) + re.findall(
        rf"`((?:{sections})\.[a-z_0-9]+)(?:=[^`]*)?`", text
    )
    files = {path.name for path in (ROOT / "ddpm_jax").rglob("*.py")} | {"data.json", "train.log"}
    assert [name for name in named if name not in known and name not in files] == []


def code(page: str) -> list[str]:
    """The blocks of Python in a page."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def test_the_first_images_need_no_training():
    names = {}
    exec("\n".join(code("docs/getting_started.md")), names)
    assert names["images"].shape == (10, 28, 28, 1)


def test_what_is_added_for_example_keeps_the_laws():
    names = {"np": np, "jnp": jnp, "Betas": Betas, "betas_of_curve": betas_of_curve, "SCAN": SCAN}
    for block in code("docs/extending.md"):
        exec(block, names)
    schedule = schedule_of_betas(names["root_betas"](1000))
    assert schedule.snr[1] > 10 and schedule.snr[-1] < 1e-4
    keys = image_keys(0, np.arange(3))
    given = (
        gaussian_denoiser(schedule, 0.3, 0.25),
        schedule,
        draw_noise(keys, 0, (2, 2, 1)),
        keys,
        step_pairs("leading", 1000, 7),
    )
    np.testing.assert_allclose(names["ddim_by_hand"](*given).images, ddim(*given).images, atol=1e-5)


def test_tags_that_are_named_are_written():
    known = {tag(name) for name in (*METRICS, *(name for names in GROUPS.values() for name in names))}
    groups = "|".join({"train", *GROUPS})
    for page in PAGES:
        assert set(re.findall(rf"`((?:{groups})/\w+)`", page.read_text())) <= known, page.name


def test_commands_are_found():
    assert sum(len(commands(page)) for page in PAGES) > 50


@pytest.mark.parametrize("name", GENERATED)
def test_pages_that_are_generated_are_up_to_date(name):
    assert (ROOT / "docs" / name).read_text() == GENERATED[name](), "run: python scripts/write_reference.py"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_functions_that_are_linked_are_in_the_file(page):
    for name, path in re.findall(r"\[`([\w.]+)`\]\((?:\.\./)*(ddpm_jax/[\w/]+\.py)\)", page.read_text()):
        found = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        for part in name.split("."):
            assert hasattr(found, part), f"{page.name} links to {name} in {path}"
            found = getattr(found, part)
