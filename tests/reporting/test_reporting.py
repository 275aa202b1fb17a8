import logging
import time

from ddpm_jax.runtime.log import start_log
from ddpm_jax.runtime.progress import duration, progress


def test_the_log_goes_to_the_terminal_and_with_details_to_the_file(tmp_path, capsys):
    start_log(tmp_path / "train.log")
    logger = logging.getLogger("ddpm_jax")
    logger.info("hello")
    logger.debug("a detail")
    start_log()
    assert capsys.readouterr().err == "hello\n"
    text = (tmp_path / "train.log").read_text()
    assert "INFO hello" in text and "DEBUG a detail" in text


def test_progress_prints_plain_lines_where_there_is_no_terminal(monkeypatch, caplog):
    monkeypatch.setattr("ddpm_jax.runtime.progress.LINE_EVERY", 0.02)
    logging.getLogger("ddpm_jax").propagate = True
    with caplog.at_level(logging.INFO):
        items = list(progress((time.sleep(0.015) or i for i in range(8)), "Work", total=10, done=2, note=lambda: "ok"))
    assert items == list(range(8))
    assert "Work: " in caplog.text and " of 10, 0:00 left, ok" in caplog.text


def test_durations_read_like_clocks():
    assert [duration(s) for s in (0.0, 61.0, 3599.6, 3661.0)] == ["0:00", "1:01", "1:00:00", "1:01:01"]
