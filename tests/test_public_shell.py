"""The files that show the project to others agree with each other and name what there is."""

import datetime
import os
import re
import shutil
import subprocess
import tomllib

import pytest
import yaml
from packaging.version import Version

from tests.end_to_end.commands import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted({*(ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")} - {ROOT / ".github/ISSUE_TEMPLATE/config.yml"})
PLACEHOLDER = "THIS-REPOSITORY"
PATH = re.compile(
    r"(?<![\w/.$-])(?:[\w.-]+/)*[\w.*-]+\.(?:cff|md|py|toml|txt|yaml|yml)\b|(?<!\S)(?:\.ci|scripts)/[\w/]+"
)
"""A file of the repository in a command or a sentence."""


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def texts(node: object) -> list[str]:
    """All texts in a tree of lists and tables."""
    if isinstance(node, dict | list):
        return [text for child in (node.values() if isinstance(node, dict) else node) for text in texts(child)]
    return [node] if isinstance(node, str) else []


def missing(tree: object) -> list[str]:
    """The files that a tree names and the repository lacks; names may be patterns."""
    return [name for text in texts(tree) for name in PATH.findall(text) if not any(ROOT.glob(name))]


def test_one_version_is_stated():
    headings = re.findall(r"^## (\S+)(?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    (unreleased, _), *releases = headings
    assert unreleased == "Unreleased"
    versions = [Version(version) for version, _ in releases]
    assert versions == sorted(versions, reverse=True) and len(set(versions)) == len(versions) >= 2
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest, date = releases[0]
    assert PROJECT["version"] == citation["version"] == newest
    assert citation["date-released"] == datetime.date.fromisoformat(date)


def test_one_list_of_python_versions_is_stated():
    supported = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    tests = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]["tests"]["strategy"]["matrix"]
    assert set(tests["python"]) == supported
    lowest = min(supported, key=Version)
    assert [other["python"] for other in tests["include"]] == [lowest] == [PROJECT["requires-python"].strip(">=")]
    (tried,) = re.findall(r"for minor in ([\d ]+);", (ROOT / "scripts/setup").read_text())
    assert {f"3.{minor}" for minor in tried.split()} == supported
    for path in WORKFLOWS:
        used = {str(step.get("with", {}).get("python-version", "")) for step in steps(yaml.safe_load(path.read_text()))}
        assert set(re.findall(r"3\.\d+", " ".join(used))) <= supported, path.name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_name_what_there_is_and_may_write_nothing(path):
    workflow = yaml.safe_load(path.read_text())
    assert missing(workflow["jobs"]) == []
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job.get("permissions", {}) == ({"id-token": "write"} if name == "publish" else {}), name
    for step in steps(workflow):
        assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", step["uses"]), step
        assert "checkout" not in step.get("uses", "") or step["with"] == {"persist-credentials": False}, step


def test_the_links_of_a_released_readme_name_files_of_its_version(tmp_path):
    shutil.copy(ROOT / "README.md", tmp_path)
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    (script,) = [step["run"] for step in steps(release) if "README" in step.get("name", "")]
    where = {"GITHUB_REPOSITORY": "someone/ddpm_jax", "GITHUB_REF_NAME": "v1.2.3", "PATH": os.environ["PATH"]}
    subprocess.run(["bash", "-c", script], cwd=tmp_path, env=where, check=True)
    before, after = (re.findall(r"(!?)\[[^]]*\]\(([^)]*)\)", (at / "README.md").read_text()) for at in (ROOT, tmp_path))
    for (picture, old), (_, new) in zip(before, after, strict=True):
        if re.match("#|https:", old):
            assert new == old
        else:
            assert new == f"https://github.com/someone/ddpm_jax/{'raw' if picture else 'blob'}/v1.2.3/{old}"
    assert sum(new != old for (_, old), (_, new) in zip(before, after, strict=True)) > 40


def test_paths_are_found():
    named = {name for path in WORKFLOWS for name in PATH.findall(path.read_text())}
    assert {"requirements-lowest.txt", "requirements*.txt", "scripts/setup", ".ci/run", "pyproject.toml"} <= named


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_have_what_github_requires(path):
    form = yaml.safe_load(path.read_text())
    assert form["name"] and form["description"] and missing(form) == []
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["type"] in ("textarea", "input") and field["attributes"]["label"] for field in fields)
    names = [field["id"] for field in fields]
    assert len(set(names)) == len(names) >= 3


def test_the_placeholder_of_the_address_stands_where_the_command_replaces_it():
    commands = re.findall(rf"^    sed .*{PLACEHOLDER}\S* (.*)$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    replaced = {path for names in commands for name in names.split() for path in ROOT.glob(name)}
    kinds = ("*.cff", "*.md", "*.toml", "*.yml", "docs/**/*.md", "notebooks/*.ipynb")
    files = {path for kind in kinds for path in ROOT.glob(kind)} - {ROOT / "CONTRIBUTING.md"}
    assert len(files) > 20
    assert {path for path in files if PLACEHOLDER in path.read_text()} <= replaced
