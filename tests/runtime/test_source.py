import shutil
import subprocess

import pytest

from ddpm_jax.runtime import source
from ddpm_jax.runtime.source import PACKAGE, commit_of_code


def git(folder, *words):
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path):
    """A package in the checkout of a project, committed."""
    package = tmp_path / "project" / "ddpm_jax"
    (package / "runtime").mkdir(parents=True)
    shutil.copy(PACKAGE / "runtime" / "source.py", package / "runtime")
    git(package.parent, "init", "--quiet")
    git(package, "add", ".")
    git(package, "commit", "--quiet", "--message=first")
    git(package, "tag", "v1")
    return package


def test_the_commit_is_that_of_the_checkout_and_says_whether_files_changed(checkout):
    head = git(checkout, "rev-parse", "HEAD").strip()
    assert commit_of_code(checkout) == head
    (checkout / "notes.txt").write_text("not part of the code")
    assert commit_of_code(checkout) == head
    with (checkout / "runtime" / "source.py").open("a") as file:
        file.write("# changed")
    assert commit_of_code(checkout) == f"{head}-dirty"


def test_an_installed_package_has_no_commit_even_inside_the_checkout_of_another_project(checkout, tmp_path):
    shutil.copytree(checkout, checkout.parent / "site-packages" / "ddpm_jax")
    assert commit_of_code(checkout.parent / "site-packages" / "ddpm_jax") is None
    shutil.copytree(checkout, tmp_path / "elsewhere")
    assert commit_of_code(tmp_path / "elsewhere") is None


def test_without_git_or_in_time_there_is_no_commit(checkout, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(source, "TIMEOUT_S", 0.0)
        assert commit_of_code(checkout) is None
    monkeypatch.setenv("PATH", "")
    assert commit_of_code(checkout) is None
