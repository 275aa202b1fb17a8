"""--mode=plan: its arithmetic against what it follows from, and a plan of the smallest training."""

import math
from functools import lru_cache

import jax
import numpy as np
import pytest

from ddpm_jax.assemble import shapes_of
from ddpm_jax.plan import Memory, OneDevice, advice, extra_bytes, in_bytes, memory_line, parts_that_fit, plan
from ddpm_jax.training.cost import bytes_of, matrix_rate, sent_bytes, state_bytes
from ddpm_jax.training.sharding import imagined_mesh, state_sharding
from tests.training.toy import CONFIG, config_with

CHANNELS_32 = {"channels": 32, "norm_groups": 4}


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Steps of the same network and number of images are compiled once for all tests."""
    compile_anew = OneDevice.compile
    with pytest.MonkeyPatch.context() as patch:
        steps = lru_cache(lambda model, images: compile_anew(OneDevice(config_with()), images))
        patch.setattr(OneDevice, "compile", lambda self, images: steps(self.config.model, images))
        yield


def test_a_state_is_four_times_its_parameters_and_three_counters():
    state = OneDevice(CONFIG).shapes
    params = bytes_of(shapes_of(CONFIG))
    assert params == 4 * sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
    assert bytes_of(state) == pytest.approx(4 * params, abs=100)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_divided_state_takes_on_each_device_what_its_shards_take(devices):
    state, mesh = OneDevice(config_with(model=CHANNELS_32)).shapes, imagined_mesh(devices)
    assert state_bytes(state, mesh, "replicated") == bytes_of(state)
    layout = jax.tree.leaves(state_sharding(mesh, state, "fsdp"))
    sizes = [(x.size * 4, s.is_fully_replicated) for x, s in zip(jax.tree.leaves(state), layout, strict=True)]
    expected = sum(size if whole else size // devices for size, whole in sizes)
    assert state_bytes(state, mesh, "fsdp") == expected
    assert (expected < bytes_of(state)) == (devices > 1)


def test_a_device_alone_sends_nothing_and_many_send_twice_the_parameters():
    params = {"a": np.zeros((3, 5), np.float32)}
    assert sent_bytes(params, 1) == 0 and sent_bytes(params, 2) == 60
    assert sent_bytes(params, 10**6) == pytest.approx(120, rel=1e-5)


def test_arithmetic_and_memory_grow_with_the_images():
    toy = OneDevice(CONFIG)
    (_, one), (_, two) = toy.compile(1), toy.compile(2)
    assert two.flops / one.flops == pytest.approx(2, rel=0.1)
    assert one.memory is not None and two.memory is not None and one.memory > bytes_of(toy.shapes)
    # An image brings at least its input of the last convolution.
    assert two.memory - one.memory >= 4 * 8 * 8 * 8
    # Every kernel meets at least the 4x4 pixels of the smallest stage, forward and in both gradients.
    kernels = sum(x.size for x in jax.tree.leaves(toy.shapes.params) if x.ndim == 4)
    assert two.flops > 2 * 3 * 2 * kernels * 16


def test_the_room_is_the_most_images_that_stay_below_the_limit():
    line = memory_line({10: 1_300, 2: 500})
    assert line == Memory(300, 100)
    assert line.room(line.of(7)) == 7 and line.room(line.of(7) - 1) == 6 and line.room(10) == 0
    assert memory_line({10: None, 2: 500}) is None


def test_the_fewest_parts_are_found():
    for batch_size, devices, room in [(128, 1, 128), (128, 1, 100), (128, 4, 3), (96, 2, 20), (8, 8, 0), (8, 2, 50)]:
        fitting = [
            parts
            for parts in range(1, batch_size + 1)
            if batch_size % (parts * devices) == 0 and batch_size // (parts * devices) <= room
        ]
        assert parts_that_fit(batch_size, devices, room) == min(fitting, default=None)


def test_the_advice_says_how_many_parts_or_what_else_to_do():
    config = config_with(data={"batch_size": 64})
    assert advice(config, 2, room=40, limit=2**30) == "yes: up to 40 images at once on each device of 1.0 GiB"
    assert advice(config, 2, room=31, limit=2**30).endswith("set train.accumulate=2")
    assert "try train.sharding=fsdp" in advice(config, 2, room=0, limit=2**30)


def test_sums_of_parts_and_gathered_parameters_take_room():
    shapes, mesh = OneDevice(CONFIG).shapes, imagined_mesh(4)
    params = bytes_of(shapes.params)
    assert extra_bytes(CONFIG, shapes, mesh) == 0
    assert extra_bytes(config_with(train={"accumulate": 2}), shapes, mesh) == params
    divided = state_bytes(shapes, mesh, "fsdp") - bytes_of(shapes)
    assert extra_bytes(config_with(train={"sharding": "fsdp"}), shapes, mesh) == params + divided


def test_sizes_are_words():
    assert [in_bytes(n) for n in (2**19, 1023 * 2**20, 2**31)] == ["0.5 MiB", "1,023 MiB", "2.0 GiB"]


def test_a_matrix_product_is_timed():
    assert 1e8 < matrix_rate("float32", rounds=1) < 1e16


def test_a_plan_of_sixteen_devices_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    devices = {"devices": 16, "teraflops": 2.0, "price": 3.0, "memory": 1.0}
    config = config_with(data={"batch_size": 32}, plan=devices, train={"steps": 1000}, checkpoint={"every": 100})
    plan(config, tmp_path / "nothing")
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["Batch"] == "32 images = 2 at once x 1 (train.accumulate) x 16 (devices)"
    assert lines["Fits"].startswith("yes: up to ")
    tera = float(lines["Arithmetic"].split()[0]) / 1000
    speed = float(lines["Speed"].split()[0].replace(",", ""))
    assert speed == pytest.approx(16 * 2 * 32 / tera, rel=0.01)
    assert "device-hours, at 3 an hour " in lines["Time"] and "1,000" in lines["Time"]
    assert lines["Checkpoints"].endswith("for 3 in the end") and lines["Images"].startswith("64, seen 500.0 times")
    assert not list(tmp_path.iterdir())


def test_a_plan_times_a_step_here(capsys):
    plan(config_with(data={"path": "/nowhere", "source": "folder", "batch_size": 2}), None)
    said = capsys.readouterr().out
    assert "images/s" in said and "of what it does in matrix products" in said
    assert "Images         cannot be counted: data.path=/nowhere" in said
