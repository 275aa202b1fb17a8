import pytest

from ddpm_jax.data.sources.example import read_example
from tests.data.shards import write_example


def test_features_are_read_as_they_were_written():
    features = {
        "image": [b"\x00\xff"],
        "attributes/A": [1],
        "values": [-1, 2**62],
        "floats": [0.5, -2.0],
        "name": ["é".encode()],
    }
    assert read_example(write_example(features)) == features


@pytest.mark.parametrize("record", [b"\xff\xff\xff\xff", b"\x0a\x05abc"])
def test_other_bytes_are_refused(record):
    with pytest.raises(ValueError, match=r"not a tf.train.Example"):
        read_example(record)
