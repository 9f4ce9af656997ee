"""Random streams by counter, not by state: a draw depends on what it is for, never on what was drawn before.

So a resumed run, another number of ranks or an extra evaluation in between cannot change it
(the counter-based idea of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; our mixer is BLAKE2b).
"""

import hashlib


def seed_for(seed: int, stream: str, *counters: int) -> int:
    """A 63-bit seed for one purpose: the run's seed, the stream's name, and the step, sample or epoch."""
    text = f"{seed}/{stream}/{'/'.join(str(counter) for counter in counters)}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class Permutation:
    """A shuffle of `range(size)` with no table: position to element in constant memory and time.

    A balanced Feistel network of four rounds over the next power of four, walked until it lands in range
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). levanter shuffles its data the same way.
    """

    _ROUNDS = 4

    def __init__(self, size: int, seed: int):
        if size < 1:
            raise ValueError(f"a permutation needs at least one element: {size}")
        self.size = size
        self._half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
        self._keys = [seed_for(seed, "feistel", index) for index in range(self._ROUNDS)]

    def __getitem__(self, position: int) -> int:
        """The element at `position`.

        Raises:
            IndexError: outside `range(size)`.
        """
        if not 0 <= position < self.size:
            raise IndexError(f"position {position} is outside 0..{self.size - 1}")
        value = self._encrypt(position)
        while value >= self.size:
            value = self._encrypt(value)
        return value

    def _encrypt(self, value: int) -> int:
        mask = (1 << self._half_bits) - 1
        left, right = value >> self._half_bits, value & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right, key) & mask)
        return left << self._half_bits | right


def _mix(value: int, key: int) -> int:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014) over value and key."""
    z = (value + key) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)
