"""Silent damage: a bit that flips in memory, a core that computes wrongly, a rank whose weights have left the others'.

Nothing of it is an error to the machine, and finite values do not show it. Three checks, off by default: what an update
left is what the next step finds; all ranks hold the same; one micro-batch computed twice gives the same bits (as
Megatron-LM's rerun machine does). Damage found is a fault like any other: faults.py says what follows.
Not for shards, which no two ranks share, and the third not on GPUs, whose kernels need not repeat their bits.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum

import torch
from torch import Tensor, nn

_DIGITS = 13  # hexadecimal, of a digest that a float64 holds exactly


class Ailment(IntEnum):
    """What is wrong with a rank, as a number that ranks exchange."""

    NONE = 0
    NOT_FINITE = 1
    CHANGED = 2
    COMPUTES_DIFFERENTLY = 3

    def told(self, whose: str) -> str:
        """In words; `whose` names the rank where there are several."""
        return {
            Ailment.NOT_FINITE: f"weights or optimizer state{whose} hold values that are not finite",
            Ailment.CHANGED: f"weights or optimizer state{whose} changed between two steps",
            Ailment.COMPUTES_DIFFERENTLY: f"one micro-batch computed twice{whose} gave two results",
        }[self]


class Audit:
    """The checks of one rank.

    Args:
        held: everything that an update changes.
        every: steps between comparisons of ranks, and between micro-batches computed twice; 0: nothing is checked.
    """

    def __init__(self, held: Callable[[], Iterable[Tensor]], *, every: int):
        self._held = held
        self._every = every
        self._known: float | None = None  # after the last update

    def is_due(self, number: int) -> bool:
        """Whether ranks are compared at this step."""
        return self._every > 0 and number % self._every == 0

    def digest(self) -> float:
        """Of all bits held; any one flipped gives another."""
        sums = [_sum_of_bits(tensor) for tensor in self._held()]
        told = torch.stack(sums).cpu().numpy().tobytes()
        return float(int(hashlib.sha256(told).hexdigest()[:_DIGITS], 16))

    def note(self) -> None:
        """An update is done: the next step must find what it left."""
        self._known = self.digest() if self._every else None

    def forget(self) -> None:
        """Something else has changed what is held, such as a checkpoint that was loaded."""
        self._known = None

    def is_changed(self) -> bool:
        """Whether something has changed since the last update."""
        return self._known is not None and self._known != self.digest()


def _bits(tensor: Tensor) -> Tensor:
    """The same memory as whole numbers: what is not a number equals itself there."""
    return tensor.detach().view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def _sum_of_bits(tensor: Tensor) -> Tensor:
    """The sum of a tensor's bits as whole numbers; without a copy of it."""
    return _bits(tensor).sum(dtype=torch.int64)


def computes_alike(compute: Callable[[], object], parameters: Sequence[nn.Parameter]) -> bool:
    """Whether a gradient computed twice has the same bits; the parameters have none before and afterwards."""
    found: list[list[Tensor | None]] = []
    for _ in range(2):
        compute()
        found.append([parameter.grad for parameter in parameters])
        for parameter in parameters:
            parameter.grad = None
    return all(map(_are_same, *found))


def _are_same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(_bits(one), _bits(other)))


def odd_ones(digests: Sequence[float]) -> list[int]:
    """Ranks that hold something else than most do; all of them where no value has a majority."""
    if len(set(digests)) <= 1:
        return []
    value, count = Counter(digests).most_common(1)[0]
    has_majority = 2 * count > len(digests)
    return [rank for rank, digest in enumerate(digests) if not has_majority or digest != value]
