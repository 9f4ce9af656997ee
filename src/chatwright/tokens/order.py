"""Which tokens a step sees: a pure function of (seed, epoch, step), whatever the number of ranks or workers.

The stream is cut into windows of the context's length, shifted anew each epoch, and visited in a shuffled order.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chatwright.foundation.errors import DataError
from chatwright.foundation.streams import Permutation, seed_for


class TokenStream(Protocol):
    """Tokens that have a length and give any stretch of it."""

    def __len__(self) -> int:
        """Tokens in all."""
        ...

    def slice(self, start: int, length: int) -> NDArray[np.int64]:
        """`length` ids from position `start`."""
        ...


class WindowOrder:
    """Windows of `length + 1` ids (inputs and, shifted by one, targets) in the order of training."""

    def __init__(self, split: TokenStream, *, length: int, seed: int):
        self._split = split
        self._length = length
        self._seed = seed
        self.num_windows = (len(split) - length) // length  # one window is left free for the epoch's shift
        if self.num_windows < 1:
            raise DataError(
                f"the corpus has {len(split)} training tokens, one window of context needs {2 * length}",
                hint="add documents, or lower `model.context_length`",
            )

    def window(self, row: int) -> NDArray[np.int64]:
        """The row-th window of training, (length + 1,) ids; rows count on through the epochs."""
        epoch, position = divmod(row, self.num_windows)
        permutation = Permutation(self.num_windows, seed_for(self._seed, "windows", epoch))
        shift = seed_for(self._seed, "shift", epoch) % self._length
        return self._split.slice(shift + permutation[position] * self._length, self._length + 1)

    def rows(self, first: int, count: int) -> NDArray[np.int64]:
        """`count` windows from row `first`, (count, length + 1)."""
        return np.stack([self.window(row) for row in range(first, first + count)])
