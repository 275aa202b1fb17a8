import numpy as np
import pytest

from ddpm_jax.data.sources.digits import load_digits
from ddpm_jax.errors import UserError
from tests.data.pictures import data


def test_all_digits_are_there_with_their_labels():
    digits = load_digits(data(source="digits"))
    assert digits.decoded.shape == (1797, 8, 8, 1) and digits.decoded.dtype == np.uint8
    assert digits.decoded.min() == 0 and digits.decoded.max() == 255
    assert np.all(np.bincount(digits.annotations.classes) > 170)
    assert digits.annotations.class_names == tuple("0123456789")


def test_digits_have_no_splits():
    with pytest.raises(UserError, match=r"data.split='test': data.source='digits' has no splits"):
        load_digits(data(source="digits", split="test"))
