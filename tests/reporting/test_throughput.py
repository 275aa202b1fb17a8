import time

import pytest

from ddpm_jax.reporting.throughput import Throughput


def test_throughput_counts_images_and_excludes_pauses(monkeypatch):
    clock = [50.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def pass_time(seconds: float) -> None:
        clock[0] += seconds

    throughput = Throughput(batch_size=100, step=7, ideal=1000.0)
    for _ in throughput.timed(pass_time(2.0) for _ in range(3)):
        pass_time(1.0)
        with throughput.paused():
            pass_time(5.0)
    rates = throughput.read(10, throughput.now())
    assert rates == pytest.approx({"images_per_second": 300 / 9, "data_wait_share": 6 / 9, "share_of_peak": 0.3 / 9})
    pass_time(4.0)
    finished = throughput.now()
    pass_time(1.0)
    assert throughput.read(11, finished)["images_per_second"] == pytest.approx(25.0)
    assert throughput.read(12, throughput.now())["images_per_second"] == pytest.approx(100.0)
    assert throughput.read(13, throughput.now())["images_per_second"] == pytest.approx(100.0)  # At the same moment.
    pass_time(4.0)
    assert throughput.read(14, throughput.now())["images_per_second"] == pytest.approx(50.0)
