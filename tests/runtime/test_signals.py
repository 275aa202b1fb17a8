"""Signals end work where it is, at its own time where it asked for that, and in bounded time where it hangs."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ddpm_jax.runtime.signals import SIGNALS, Stopped, deferred, stoppable

HANGS = """
import contextlib, ctypes
from ddpm_jax.runtime import signals as stopping
stopping.GRACE = 0.2
with stopping.stoppable():
    mutex = ctypes.create_string_buffer(256)
    lock = ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    with contextlib.suppress(stopping.Stopped):  # Where the signal comes sooner than the next line.
        print("hangs", flush=True)
        lock(mutex)  # For ever, and no handler of Python's runs.
    lock(mutex)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_block_with_its_number(number):
    before, cleared = signal.getsignal(number), []
    with pytest.raises(Stopped) as caught, stoppable():
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            cleared.append(True)
    assert caught.value.number == number and cleared
    assert signal.getsignal(number) == before


def test_work_that_asked_for_it_is_told_once_and_goes_on():
    told = []
    with stoppable(), deferred(told.append):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert told == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # A second one acts as it always does.


def test_other_threads_do_without(tmp_path):
    def work() -> None:
        with stoppable(), deferred(print):
            done.append(len(os.listdir("/proc/self/fd")))

    done: list[int] = []
    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(done) == 3 and len(set(done)) == 1


def test_nothing_is_left_of_a_block_that_ends_well():
    before, threads = [signal.getsignal(number) for number in SIGNALS], threading.active_count()
    with stoppable():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_hangs_is_ended(number):
    process = subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "hangs\n"
    process.send_signal(number)
    assert process.wait(timeout=20) == 128 + number
    process.stdout.close()


def test_a_stop_that_the_garbage_collector_swallows_comes_again():
    """Python discards what is raised in functions that the collector calls, such as JAX's."""
    program = """
import gc, os, signal, time
from ddpm_jax.runtime.exit_codes import exit_code
def collected(phase, info):
    if phase == "start" and not seen:
        seen.append(phase)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
seen = []
def work():
    gc.callbacks.append(collected)
    gc.collect()
    gc.callbacks.remove(collected)
    time.sleep(20)
began = time.monotonic()
code = exit_code(work)
assert seen and time.monotonic() - began < 10
raise SystemExit(code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 143, done.stderr
    assert done.stderr.splitlines() == ["Stopped by SIGTERM."]


def test_time_in_which_a_stop_is_deferred_does_not_count(monkeypatch):
    """Also where the signal came before."""
    program = """
import os, signal, time
from ddpm_jax.runtime import signals as stopping
stopping.GRACE, stopping.LOOK = 0.5, 0.05
with stopping.stoppable():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    except stopping.Stopped:
        time.sleep(0.1)
        with stopping.deferred(print):
            time.sleep(1.5)
        print("brought to an end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "brought to an end\n", done.stderr
