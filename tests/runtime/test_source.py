import shutil
import subprocess

import pytest

from ddpm_jax.runtime import source
from ddpm_jax.runtime.source import PACKAGE, commit_of_code, without_git_variables


def git(folder, *words):
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", folder, *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=without_git_variables()).stdout


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


def test_the_repository_of_a_hook_in_which_the_code_runs_does_not_matter(checkout, tmp_path, monkeypatch):
    """Git tells hooks where its repository and its index are, by variables that its own commands obey."""
    other, head = tmp_path / "other", git(checkout, "rev-parse", "HEAD").strip()
    other.mkdir()
    git(other, "init", "--quiet")
    git(other, "commit", "--quiet", "--allow-empty", "--message=of another project")
    before = git(other, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    assert commit_of_code(checkout) == head
    git(checkout, "commit", "--quiet", "--allow-empty", "--message=second")
    assert git(other, "rev-parse", "HEAD") == before
    assert commit_of_code(checkout) != head


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
