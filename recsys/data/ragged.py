"""Many short arrays as one: millions of them cost no Python object each."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np


class Ragged(Sequence[np.ndarray]):
    """Arrays of unlike length, one behind the other. Array n is values[offsets[n]:offsets[n + 1]], a view."""

    def __init__(self, values: np.ndarray, sizes: np.ndarray) -> None:
        """`values` hold the arrays, `sizes` [n] their lengths."""
        self.values = values
        self.offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, row: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[np.ndarray]: ...
    def __getitem__(self, row: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        if isinstance(row, slice):
            return [self[one] for one in range(len(self))[row]]
        row = range(len(self))[row]
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))
