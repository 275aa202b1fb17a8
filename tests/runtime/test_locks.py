"""One job at a time, also where flock works on each host separately."""

import errno
import fcntl
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import locks
from ddpm_jax.runtime.locks import exclusive_lock
from ddpm_jax.runtime.signals import Stopped, stoppable

KILLED = """
import errno, fcntl, os, signal, sys
from pathlib import Path
from ddpm_jax.runtime.locks import exclusive_lock
def none(*_):
    raise OSError(errno.ENOLCK, "No locks available")
if sys.argv[2] == "without flock":
    fcntl.flock = none
with exclusive_lock(Path(sys.argv[1]), "Busy."):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "a folder" / ".work.lock"


@pytest.fixture(params=["flock", "without flock"])
def system(request, monkeypatch) -> str:
    """A file system with flock, and one without."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if request.param == "without flock":
        monkeypatch.setattr(fcntl, "flock", none)
    return request.param


@pytest.fixture
def no_shared_locks(monkeypatch):
    """A file system that grants every lock, as some do to jobs on different hosts."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)


def foreign_record(path: Path, **fields: object) -> Path:
    """Writes the record of a job on another host."""
    path.parent.mkdir(exist_ok=True)
    record = path.with_name(".work.holder.lock")
    record.write_text(json.dumps({"host": "another", "boot": "another", "process": 7, "since": "noon"} | fields))
    return record


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught, exclusive_lock(path, "Busy."):
        pass
    return str(caught.value)


def test_a_second_job_is_refused_and_the_first_leaves_no_files(path, system):
    with exclusive_lock(path, "Busy."):
        for _ in range(2):
            message = refused(path)
        assert message.startswith(f"Busy. The lock is held by process {os.getpid()} on {socket.gethostname()} since 20")
    assert list(path.parent.iterdir()) == []
    with exclusive_lock(path, "Busy."):
        pass


def test_the_command_in_the_message_removes_the_lock(path, system):
    foreign_record(path)
    message = refused(path)
    assert "held by process 7 on another since noon; only if that has ended: rm " in message
    _, command = message.rstrip(".").split("only if that has ended: ")
    subprocess.run(["sh", "-c", command], check=True)
    assert shlex.split(command)[0] == "rm"
    with exclusive_lock(path, "Busy."):
        pass
    assert list(path.parent.iterdir()) == []


def test_the_lock_of_a_killed_job_of_this_host_is_taken_over(path, system):
    assert subprocess.run([sys.executable, "-c", KILLED, str(path), system]).returncode == -signal.SIGKILL
    assert len(list(path.parent.iterdir())) == 2
    with exclusive_lock(path, "Busy."):
        assert json.loads(path.with_name(".work.holder.lock").read_text())["process"] == os.getpid()
    assert list(path.parent.iterdir()) == []


def test_the_lock_of_a_zombie_is_taken_over(path):
    killed = subprocess.Popen([sys.executable, "-c", KILLED, str(path), "flock"])
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    with exclusive_lock(path, "Busy."):
        pass
    assert killed.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("fields", "taken_over"),
    [
        ({}, False),
        ({"host": socket.gethostname()}, True),  # This host, before it was restarted.
        ({"boot": locks._boot()}, True),  # Another container of this host.
        ({"boot": locks._boot(), "process": os.getpid(), "started": locks._started(os.getpid())}, False),
        ({"boot": locks._boot(), "process": os.getpid(), "started": "1"}, True),  # An earlier process of that number.
        ({"boot": locks._boot(), "process": "\0", "started": "1"}, True),
    ],
)
def test_only_locks_of_dead_processes_of_this_host_are_taken_over(path, fields, taken_over):
    foreign_record(path, **fields)
    if taken_over:
        with exclusive_lock(path, "Busy."):
            pass
        assert list(path.parent.iterdir()) == []
    else:
        before = foreign_record(path, **fields).read_text()
        refused(path)
        assert path.with_name(".work.holder.lock").read_text() == before


@pytest.mark.parametrize(
    ("job", "restarts", "taken_over"), [("7", "0", True), ("7", "1", False), ("8", "0", False), (None, "0", False)]
)
def test_a_requeued_slurm_job_takes_over_its_lock_of_another_host(path, monkeypatch, job, restarts, taken_over):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "main")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    foreign_record(path, host="elsewhere", job=job and f"main/{job}", restarts=restarts)
    if taken_over:
        with exclusive_lock(path, "Busy."):
            pass
    else:
        refused(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 200_000])
def test_an_unreadable_record_is_never_taken_over(path, content):
    foreign_record(path).write_bytes(content)
    assert "held by an unknown process" in refused(path)


def test_the_holder_of_a_lock_is_named_in_one_line(path):
    foreign_record(path, host="a\nb", process=["\ud800"])
    assert len(refused(path).splitlines()) == 1


def test_a_waiting_job_acquires_the_lock_when_it_is_released(path, system, package_log):
    held, free = exclusive_lock(path, "Busy."), []
    held.__enter__()

    def release() -> None:
        free.append(True)
        held.__exit__(None, None, None)

    threading.Timer(0.5, release).start()
    with exclusive_lock(path, None):
        assert free
    (message,) = package_log.messages
    assert "waiting for it" in message and f"process {os.getpid()}" in message


def test_a_job_that_waits_for_another_host_continues_when_the_record_is_gone(path):
    record = foreign_record(path)
    threading.Timer(0.5, record.unlink).start()
    with exclusive_lock(path, None):
        assert json.loads(record.read_text())["process"] == os.getpid()


def test_a_signal_stops_a_waiting_job(path):
    foreign_record(path)
    with pytest.raises(Stopped), stoppable():
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with exclusive_lock(path, None):
            raise AssertionError("Another job holds the lock.")


def test_without_shared_flock_one_host_at_a_time_holds_the_lock(path, no_shared_locks, monkeypatch):
    here = threading.local()
    monkeypatch.setattr(socket, "gethostname", lambda: here.name)
    monkeypatch.setattr(locks, "_boot", lambda: here.name)
    monkeypatch.setattr(locks, "POLL_S", 0.001)
    holders, most, turns = [], [], threading.Barrier(4)

    def job(name: str) -> None:
        here.name = name
        turns.wait()
        for _ in range(20):
            with exclusive_lock(path, None):
                holders.append(name)
                most.append(len(holders))
                time.sleep(0.001)
                holders.remove(name)

    jobs = [threading.Thread(target=job, args=(f"host{i}",)) for i in range(4)]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join()
    assert len(most) == 80 and max(most) == 1
    assert not path.with_name(".work.holder.lock").exists()


def test_without_shared_flock_a_live_process_keeps_its_lock(path, no_shared_locks):
    with exclusive_lock(path, "Busy."):
        refused(path)


def test_a_disk_error_is_raised_and_leaves_no_lock(path, monkeypatch):
    path.parent.mkdir()
    (path.parent / "file").write_text("")
    with pytest.raises(OSError), exclusive_lock(path.parent / "file" / "lock", "Busy."):
        pass

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(os, "fsync", full)
        with exclusive_lock(path, "Busy."):
            pass
    with exclusive_lock(path, "Busy."):
        pass


def test_a_record_is_complete_or_not_there(path, monkeypatch):
    """A process that is killed while it writes leaves nothing that nobody could take over."""
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(path.with_name(".work.holder.lock").exists()))
    with exclusive_lock(path, "Busy."):
        assert seen == [False] and json.loads(path.with_name(".work.holder.lock").read_text())["process"] == os.getpid()
        assert len(list(path.parent.iterdir())) == 2
    assert list(path.parent.iterdir()) == []
