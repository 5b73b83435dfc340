"""Many arrays in one, against a list of them."""

import numpy as np
import pytest

from recsys.data.ragged import Ragged


def test_many_arrays_in_one_are_a_sequence_of_them():
    rng = np.random.default_rng(0)
    plain = [rng.integers(0, 9, size) for size in (3, 0, 1, 4, 0)]
    found = Ragged(np.concatenate(plain), np.array([len(one) for one in plain]))
    assert [one.tolist() for one in found] == [one.tolist() for one in plain]
    assert len(found) == 5
    assert found[-2].tolist() == plain[3].tolist()
    assert [one.tolist() for one in found[1:4]] == [one.tolist() for one in plain[1:4]]
    with pytest.raises(IndexError):
        found[5]


def test_no_arrays_in_one_are_an_empty_sequence():
    assert list(Ragged(np.zeros(0), np.zeros(0, dtype=np.int64))) == []
