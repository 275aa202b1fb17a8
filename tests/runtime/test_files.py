"""A staged file or folder appears complete or not at all, whatever interrupts the writing."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ddpm_jax.runtime import files
from ddpm_jax.runtime.files import staged, user_cache, with_path

KINDS = pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])


def fill(partial: Path, text: str, folder: bool) -> None:
    if folder:
        (partial / "below").mkdir(exist_ok=True)
    (partial / "below" / "a.txt" if folder else partial).write_text(text)


def content(target: Path) -> str:
    return (target / "below" / "a.txt" if target.is_dir() else target).read_text()


def stage(target: Path, text: str, folder: bool) -> None:
    with staged(target, folder=folder) as partial:
        fill(partial, text, folder)


@KINDS
def test_the_target_appears_when_the_block_ends_without_leftovers(tmp_path, folder):
    target = tmp_path / "target"
    with staged(target, folder=folder) as partial:
        assert partial == tmp_path / ".target.partial" and partial.exists() == folder
        fill(partial, "first", folder)
        assert not target.exists()
    stage(target, "second", folder)
    assert content(target) == "second"
    assert list(tmp_path.iterdir()) == [target]


def test_a_kill_at_any_call_leaves_the_old_or_the_new_folder_for_the_next_job(tmp_path):
    """The process is killed before its n-th call that renames or removes, for every n until it succeeds."""
    target = tmp_path / "target"
    program = """
import os, signal, sys
from pathlib import Path
from ddpm_jax.runtime import files
target, left = Path(sys.argv[1]), int(sys.argv[2])
def hook(event, args):
    global left
    if event in ("os.rename", "os.rmdir", "os.remove"):
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
with files.staged(target, folder=True) as partial:
    (partial / "below").mkdir()
    (partial / "below" / "a.txt").write_text("new")
    sys.addaudithook(hook)
"""
    stage(target, "old", folder=True)
    found, code, calls = [], -signal.SIGKILL, 0
    while code == -signal.SIGKILL:
        code = subprocess.run([sys.executable, "-c", program, str(target), str(calls)]).returncode
        with pytest.raises(ValueError), staged(target, folder=True):  # The next job, which fails.
            found.append(content(target))
            raise ValueError
        assert list(tmp_path.iterdir()) == [target]
        stage(target, "old", folder=True)
        calls += 1
    assert code == 0 and found[0] == "old" and found[-1] == "new"
    assert len(found) >= 4 and set(found) == {"old", "new"}


def test_a_failed_rename_leaves_the_old_folder(tmp_path, monkeypatch):
    target, rename = tmp_path / "target", Path.rename

    def fail(path: Path, other: Path) -> Path:
        if path.name == ".target.partial":
            raise OSError(5, "Input/output error")
        return rename(path, other)

    stage(target, "old", folder=True)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        stage(target, "new", folder=True)
    assert content(target) == "old" and list(tmp_path.iterdir()) == [target]


@KINDS
def test_everything_is_synced_before_the_rename_and_the_parent_folder_after_it(tmp_path, monkeypatch, folder):
    target, synced = tmp_path / "target", []
    monkeypatch.setattr(files, "sync", lambda path: synced.append((path, target.exists())))
    stage(target, "new", folder)
    partial = tmp_path / ".target.partial"
    below = {partial, partial / "below", partial / "below" / "a.txt"} if folder else {partial}
    assert {path for path, renamed in synced if not renamed} == below
    assert synced[-1] == (tmp_path, True)


def test_an_unwritable_folder_raises_an_os_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError), staged(tmp_path / "file" / "target", folder=True):
        pass


@pytest.mark.parametrize(
    ("error", "number", "path"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC, "/target"),
        (OSError("9216 requested and 3968 written"), errno.EFBIG, "/target"),  # NumPy's.
        (OSError(errno.ENOSPC, "No space left on device", "/other"), errno.ENOSPC, "/other"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), errno.ECONNRESET, None),
        (OSError("cannot identify image file"), None, None),
    ],
)
def test_a_path_is_added_only_to_errors_of_disks(error, number, path):
    with pytest.raises(OSError) as caught, with_path(Path("/target")):
        raise error
    assert (caught.value.errno, caught.value.filename) == (number, path)


def test_the_users_cache_follows_the_environment(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert user_cache("xla") == Path("/caches/ddpm_jax/xla")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert user_cache("xla") == Path("/home/me/.cache/ddpm_jax/xla")


def test_an_empty_name_of_a_home_folder_is_none(tmp_path, monkeypatch, package_log):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr(files, "gettempdir", lambda: str(tmp_path))
    files._temporary_cache.cache_clear()
    assert user_cache("xla") == tmp_path / f"ddpm_jax-{os.getuid()}" / "xla"
    assert "HOME is empty" in package_log.text
    files._temporary_cache.cache_clear()


@pytest.fixture
def no_home(tmp_path, monkeypatch):
    """A user whom the system does not know; the folder for temporary files."""

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr(files, "gettempdir", lambda: str(tmp_path))
    files._temporary_cache.cache_clear()
    yield tmp_path
    files._temporary_cache.cache_clear()


def test_without_a_home_folder_the_cache_is_temporary_and_says_so_once(no_home, package_log):
    folder = no_home / f"ddpm_jax-{os.getuid()}"
    assert (user_cache("data"), user_cache("xla")) == (folder / "data", folder / "xla")
    assert folder.stat().st_mode & 0o777 == 0o700
    (message,) = package_log.messages
    assert message.startswith("There is no home folder") and str(folder) in message
    files._temporary_cache.cache_clear()
    assert user_cache("data") == folder / "data"  # As the next command finds it.


def test_a_temporary_cache_is_never_that_of_another_user(no_home, monkeypatch):
    (no_home / "elsewhere").mkdir()
    (no_home / f"ddpm_jax-{os.getuid()}").symlink_to(no_home / "elsewhere")
    monkeypatch.setattr(files, "mkdtemp", lambda prefix: str(no_home / "own"))
    assert user_cache("data") == no_home / "own" / "data"


def test_a_home_folder_that_cannot_be_written_is_only_read(no_home, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: no_home / "home")
    (no_home / "home" / ".cache" / "ddpm_jax" / "data").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert user_cache("data") == no_home / "home" / ".cache" / "ddpm_jax" / "data"
    assert user_cache("xla") == no_home / f"ddpm_jax-{os.getuid()}" / "xla"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_home_folder_of_another_user_that_cannot_be_entered_is_not_used():
    """As in a container that is started for a user with a number but without an entry in the system's list."""
    program = """
import os, sys
from ddpm_jax.runtime.files import user_cache
os.setgroups([])
os.setgid(54321)
os.setuid(54321)
print(user_cache("xla"))
"""
    with TemporaryDirectory() as folder:
        os.chown(folder, 54321, 54321)
        (Path(folder) / "home").mkdir(mode=0o700)  # Of root.
        environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
        environment |= {"HOME": f"{folder}/home", "TMPDIR": folder}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == f"{folder}/ddpm_jax-54321/xla\n", done.stderr
    assert "home cannot be written" in done.stderr
