"""Signals set a flag that loops read; a process that never reads it ends in bounded time with the same exit code."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.signals import (
    ENDING_SIGNALS,
    SIGNALS,
    Stopped,
    deferred,
    polling,
    raise_if_stopped,
    stop_requested,
    stoppable,
)

EACH = pytest.mark.parametrize("number", SIGNALS)
HANGS = """
import ctypes
from ddpm_jax.runtime import signals
from ddpm_jax.runtime.exit_codes import end_process, exit_code
signals.GRACE_S, signals.POLL_S = 0.2, 0.05
def work():
    mutex = ctypes.create_string_buffer(256)
    lock = ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    print("busy", flush=True)
    lock(mutex)  # Blocks for ever, so that no Python handler runs.
end_process(exit_code(work))
"""
COMPILES = """
import jax
from ddpm_jax.runtime import signals
from ddpm_jax.runtime.exit_codes import end_process, exit_code
signals.GRACE_S, signals.POLL_S = 0.2, 0.05
def long(x):
    for i in range(1000):
        x = jax.numpy.sin(x) @ x + i
    return x
def work():
    lowered = jax.jit(long).lower(jax.numpy.ones((3, 3)))
    print("busy", flush=True)
    lowered.compile({"xla_backend_optimization_level": 3})
    print("compiled", flush=True)
end_process(exit_code(work))
"""


def interrupt(number: signal.Signals) -> None:
    """Sends this process a signal and lets its handler run."""
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def run(program: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True, timeout=60)


@EACH
def test_a_loop_ends_between_two_items(number):
    seen = []
    with pytest.raises(Stopped) as caught, stoppable():
        for item in progress(range(5), "Work", "items", total=5):
            if item == 2:
                interrupt(number)
            seen.append(item)
    assert caught.value.number == number and seen == [0, 1, 2]


def test_a_signal_before_a_loop_stops_it_at_its_start():
    with stoppable(), pytest.raises(Stopped):
        interrupt(signal.SIGTERM)
        for _ in progress(range(5), "Work", "items", total=5):
            raise AssertionError("The first item was yielded.")


@EACH
def test_deferred_work_is_never_interrupted_and_can_read_the_flag(number):
    with stoppable():
        with deferred():
            assert stop_requested() is None
            assert list(progress((interrupt(number) or i for i in range(1)), "Work", "items", total=1)) == [0]
            raise_if_stopped()
            assert stop_requested() == number
        with pytest.raises(Stopped):
            raise_if_stopped()


def test_ctrl_c_raises_at_once_outside_of_polling_loops():
    with stoppable(), pytest.raises(KeyboardInterrupt):
        with polling():
            pass
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


TWO_SIGNALS = """
import os, sys, time
from ddpm_jax.runtime.signals import deferred, stop_requested, stoppable
first, second = map(int, sys.argv[1:])
with stoppable(), deferred():
    os.kill(os.getpid(), first)
    time.sleep(0.1)
    print("continues", flush=True)
    os.kill(os.getpid(), second)
    time.sleep(0.1)
    print("saves after", stop_requested())
"""


@EACH
@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_urgent_signal_ends_the_process_at_once(first, number):
    done = run(TWO_SIGNALS, str(first.value), str(number.value))
    if number in ENDING_SIGNALS:
        assert done.returncode == -number and done.stdout == "continues\n", done.stderr
    else:
        assert done.returncode == 0 and done.stdout == f"continues\nsaves after {first.value}\n", done.stderr


def test_a_process_started_by_nohup_survives_the_closed_terminal():
    program = """
import os, signal, time
from ddpm_jax.runtime.signals import raise_if_stopped, stoppable
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with stoppable():
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(0.1)
    raise_if_stopped()
print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)
"""
    done = run(program)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_blocks_in_other_threads_do_nothing():
    def work() -> None:
        with stoppable(), polling(), deferred():
            done.append(len(os.listdir("/proc/self/fd")))

    done: list[int] = []
    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(done) == 3 and len(set(done)) == 1


def test_a_loop_in_another_thread_leaves_ctrl_c_unchanged():
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        for _ in progress(range(1), "Work", "items", total=1):
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=work)
    try:
        with stoppable(), pytest.raises(KeyboardInterrupt):
            thread.start()
            assert inside.wait(20)
            interrupt(signal.SIGINT)
            leave.wait(5)
    finally:
        leave.set()
        thread.join()


def test_a_block_restores_handlers_and_threads_with_and_without_a_signal():
    before, threads = [signal.getsignal(number) for number in SIGNALS], threading.active_count()
    for interrupted in (False, True):
        with stoppable():
            assert [signal.getsignal(number) for number in SIGNALS] != before
            with stoppable():
                pass
            assert [signal.getsignal(number) for number in SIGNALS] != before
            if interrupted:
                interrupt(signal.SIGTERM)
        assert [signal.getsignal(number) for number in SIGNALS] == before
        assert threading.active_count() == threads
        assert signal.set_wakeup_fd(-1) == -1
        assert stop_requested() is None


@pytest.mark.parametrize("number", ENDING_SIGNALS)
@pytest.mark.parametrize("program", [HANGS, COMPILES], ids=["hangs", "compiles"])
def test_a_process_that_runs_no_python_code_ends_with_the_same_exit_code(program, number):
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "busy\n"
        time.sleep(0.2)  # The next line of the program must have begun.
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number
        assert process.stdout.read() == ""


def test_an_exception_lost_in_a_garbage_collection_does_not_lose_the_signal():
    """Python discards exceptions in functions that the garbage collector calls, such as JAX's."""
    program = """
import gc, os, signal, sys, time
from ddpm_jax.runtime.exit_codes import exit_code
from ddpm_jax.runtime.progress import progress
def collected(phase, info):
    if phase == "start" and not seen:
        seen.append(phase)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
seen = []
def work():
    gc.callbacks.append(collected)
    gc.collect()
    gc.callbacks.remove(collected)
    print("swallowed", flush=True)
    for _ in progress(range(9), "Work", "items", total=9):
        print("continued")
sys.exit(exit_code(work))
"""
    done = run(program)
    assert (done.returncode, done.stdout) == (130, "swallowed\n"), done.stderr
    assert done.stderr.splitlines() == ["Stopped by SIGINT."]


def test_deferred_time_does_not_count_even_after_the_signal():
    program = """
import os, signal, time
from ddpm_jax.runtime import signals
signals.GRACE_S, signals.POLL_S = 0.5, 0.05
with signals.stoppable():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    with signals.deferred():
        time.sleep(1.5)
    print("finished")
"""
    done = run(program)
    assert done.returncode == 0 and done.stdout == "finished\n", done.stderr


def test_a_signal_to_a_forked_child_does_not_reach_its_parent():
    program = """
import os, signal, sys, time
from ddpm_jax.runtime import signals
signals.GRACE_S, signals.POLL_S = 0.2, 0.05
with signals.stoppable():
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        os._exit(0)
    os.waitpid(child, 0)
    time.sleep(1.0)
    print("lives", signals.stop_requested())
"""
    done = run(program)
    assert done.returncode == 0 and done.stdout == "lives None\n", done.stderr
