import pickle

import numpy as np
import pytest

from ddpm_jax.data.annotations import annotate
from ddpm_jax.data.collection import in_memory


def test_a_collection_in_memory_reads_its_own_pixels():
    images = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 1)
    collection = in_memory("here", images, annotate(2))
    assert collection.decoded is images and collection.names == ["image 0", "image 1"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(collection.read))(1), images[1])
    assert collection.stamp(0) != collection.stamp(1)


def test_annotations_of_another_length_are_refused():
    with pytest.raises(AssertionError):
        in_memory("here", np.zeros((2, 3, 3, 1), np.uint8), annotate(3))
