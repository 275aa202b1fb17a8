"""One job at a time, also where each machine's system sees only its own jobs."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from ddpm_jax.runtime import locks
from ddpm_jax.runtime.locks import exclusive_lock


class Busy(Exception):
    """Another job holds the lock."""


def busy() -> None:
    raise Busy


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(locks, "STALE_AFTER_S", 1.0)
    monkeypatch.setattr(locks, "SETTLE_S", 0.3)


def elsewhere(path, beat: int) -> None:
    """What a job on another machine writes."""
    path.touch()
    with path.open("r+") as file:  # Never empty in between.
        file.write(json.dumps({"host": "another", "machine": "another", "token": "theirs", "beat": beat}).ljust(300))


def test_a_second_job_is_refused_and_the_lock_goes_with_the_first(tmp_path):
    path = tmp_path / "new" / "lock"
    with exclusive_lock(path, busy):
        for _ in range(2):
            with pytest.raises(Busy), exclusive_lock(path, busy):
                pass
        assert path.exists()
    assert not path.exists()
    with exclusive_lock(path, busy):
        pass


def test_a_killed_job_leaves_nothing_in_the_way(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    program = f"""
import os, signal
from pathlib import Path
from ddpm_jax.runtime.locks import exclusive_lock
with exclusive_lock(Path({str(path)!r}), print):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    assert path.exists()
    monkeypatch.setattr(locks, "_lives", None)  # This machine's system knows that it is gone.
    with exclusive_lock(path, busy):
        assert path.exists()


def test_a_job_that_died_on_another_machine_is_waited_for_and_replaced(tmp_path):
    path = tmp_path / "lock"
    elsewhere(path, 7)
    began = time.monotonic()
    with exclusive_lock(path, busy):
        assert time.monotonic() - began >= 1.0
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_job_that_lives_on_another_machine_keeps_the_lock(tmp_path):
    path, ended = tmp_path / "lock", threading.Event()

    def live() -> None:
        for beat in range(1000):
            elsewhere(path, beat)
            if ended.wait(0.05):
                return

    other = threading.Thread(target=live)
    other.start()
    time.sleep(0.1)
    with pytest.raises(Busy), exclusive_lock(path, busy):
        pass
    ended.set()
    other.join()
    assert path.exists()


def test_a_job_that_waits_gets_the_lock_when_it_is_free(tmp_path):
    path, waited = tmp_path / "lock", []
    held = exclusive_lock(path, busy)
    held.__enter__()
    threading.Timer(0.2, held.__exit__, (None, None, None)).start()
    with exclusive_lock(path, lambda: waited.append(1)):
        assert waited == [1]


def test_where_the_system_has_no_locks_what_is_written_counts(tmp_path, monkeypatch):
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    path = tmp_path / "lock"
    with exclusive_lock(path, busy), pytest.raises(Busy), exclusive_lock(path, busy):
        pass
    with exclusive_lock(path, busy):
        pass


def test_of_two_jobs_that_see_the_same_silence_one_gets_the_lock(tmp_path, monkeypatch):
    """As on two machines, neither of which sees the other's lock."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    path, held, most = tmp_path / "lock", [], []
    elsewhere(path, 7)

    def job() -> None:
        try:
            with exclusive_lock(path, busy):
                held.append(1)
                most.append(len(held))
                time.sleep(1.5)
                held.pop()
        except Busy:
            pass

    jobs = [threading.Thread(target=job) for _ in range(2)]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join()
    assert max(most) == 1


def test_who_was_taken_for_dead_ends_and_leaves_the_lock(tmp_path):
    path = tmp_path / "lock"
    program = f"""
import json, time
from pathlib import Path
from ddpm_jax.runtime import locks
locks.HEARTBEAT_S = 0.05
path = Path({str(path)!r})
with locks.exclusive_lock(path, print):
    path.write_text(json.dumps({{"host": "another", "machine": "another", "token": "theirs"}}))
    time.sleep(20)
    print("it went on")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert json.loads(path.read_text())["token"] == "theirs"


def test_a_fault_of_the_disk_is_not_taken_for_a_lock(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), exclusive_lock(tmp_path / "file" / "lock", busy):
        pass
