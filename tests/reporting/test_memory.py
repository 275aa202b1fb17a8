import jax
import pytest

from ddpm_jax.reporting import memory
from ddpm_jax.reporting.memory import device_limit, memory_in_use, size_in_words


def test_sizes_are_written_in_mib_or_gib():
    sizes = {0: "0.0 MiB", 3 * 2**19: "1.5 MiB", 200 * 2**20: "200 MiB", 2**30: "1.0 GiB", 3000 * 2**30: "3,000 GiB"}
    assert {count: size_in_words(count) for count in sizes} == sizes


def test_a_line_of_a_proc_file_is_read_in_bytes(tmp_path):
    path = tmp_path / "status"
    path.write_text("Name:\tpython\nRssAnon:\t   123 kB\nRssFile:\t 9 kB\n")
    assert memory._bytes(path, "RssAnon") == 123 * 1024
    assert memory._bytes(path, "RssShmem") is None
    assert memory._bytes(tmp_path / "nothing", "RssAnon") is None


@pytest.mark.parametrize(("limit", "free"), [("1000", 600), ("max", None)])
def test_a_container_leaves_its_limit_minus_its_use(tmp_path, monkeypatch, limit, free):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("400\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory._free_in_container() == free
    assert free is None or device_limit() == free // jax.local_device_count()


def test_unknown_amounts_are_left_out(monkeypatch):
    monkeypatch.setattr(memory, "_bytes", lambda path, name: None)
    assert "host_memory_mebibytes" not in memory_in_use()
