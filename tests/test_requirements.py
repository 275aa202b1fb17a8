"""The lists of exact versions follow from requirements.txt."""

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from ddpm_jax.data.sources.prepare_tfds import INSTALL
from tests.end_to_end.commands import ROOT


def listed(name: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def pinned(name: str, wanted: Requirement) -> list[Version]:
    """The versions of a package, which may differ by the version of Python."""
    found = [line for line in listed(name) if line.name.lower() == wanted.name.lower()]
    return [Version(spec.version) for line in found for spec in line.specifier]


@pytest.mark.parametrize("wanted", listed("requirements.txt"), ids=lambda wanted: wanted.name)
def test_exact_versions_are_those_that_are_allowed(wanted):
    (lowest,) = pinned("requirements-lowest.txt", wanted)
    (bound,) = wanted.specifier
    assert bound.operator == ">=" and lowest == Version(bound.version)
    newest = pinned("requirements.lock", wanted)
    assert newest and all(version in wanted.specifier for version in newest)


def test_the_command_that_installs_tensorflow_datasets_names_what_is_listed():
    assert set(INSTALL.split()[2:]) == {wanted.name for wanted in listed("requirements-tfds.txt")} - {"tensorflow-cpu"}
