"""How long a training row is, where the recipe leaves it open: by the documents' lengths and by the memory there is.

The least length at which few tokens lose what stands before them in their document, if a row of it can be trained here.
Longer rows would cost time and memory for nothing; shorter ones would teach the model to forget.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatwright.foundation import storage
from chatwright.foundation.errors import OutOfMemoryError, RefusedError
from chatwright.model.config import ModelConfig
from chatwright.train.fitting import USABLE_SHARE, WORKING_SHARE
from chatwright.train.footprint import kept_bytes, static_bytes

CHUNK = "chunk.json"
_SHORTEST = 64  # tokens
_MAX_BEYOND = 0.1  # share of tokens that may stand further into their document than a row is long


class Chunk(NamedTuple):
    """The length that was chosen, with its reasons for the person."""

    length: int
    reasons: list[str]


def settled_chunk(
    directory: Path, shape: ModelConfig, lengths: NDArray[np.int64], *, free_bytes: int | None, precision: str
) -> Chunk:
    """`choose_chunk`, decided once for a run and kept with it: later the machine may have another memory free."""
    path = directory / CHUNK
    if path.is_file():
        kept = storage.read_json(path)
        if not isinstance(kept, dict) or not isinstance(kept.get("length"), int) or kept["length"] < 1:
            raise RefusedError(f"`{path}` is damaged: {kept}", hint="delete it; the length is chosen again")
        return Chunk(kept["length"], [f"chunk: {kept['length']:,} tokens, as chosen when the run began"])
    chosen = choose_chunk(shape, lengths, free_bytes=free_bytes, precision=precision)
    with storage.publish_file(path) as scratch:
        storage.write_json(scratch, chosen._asdict())
    return chosen


def choose_chunk(
    shape: ModelConfig, lengths: NDArray[np.int64], *, free_bytes: int | None, precision: str = "float32"
) -> Chunk:
    """The length of training rows.

    Args:
        shape: the model; its context is the longest there may be.
        lengths: tokens of each training document.
        free_bytes: memory that a training may take; None where the system does not say.
        precision: in which it computes.

    Raises:
        OutOfMemoryError: not even the shortest row can be trained here.
    """
    candidates = _candidates(shape.context_length)
    beyond = {length: share_beyond(lengths, length) for length in candidates}
    wanted = next((length for length in candidates if beyond[length] <= _MAX_BEYOND), candidates[-1])
    taken = {length: row_bytes(shape, length, precision=precision) for length in candidates if length <= wanted}
    fitting = [length for length in taken if free_bytes is None or taken[length] <= USABLE_SHARE * free_bytes]
    if not fitting:
        raise OutOfMemoryError(
            f"a row of {candidates[0]} tokens takes {taken[candidates[0]] / 1e9:.2f} GB to train, "
            f"{(free_bytes or 0) / 1e9:.2f} GB are free",
            hint="make the model smaller, or free some memory",
        )
    return Chunk(fitting[-1], _reasons(fitting[-1], wanted, beyond, taken, free_bytes, shape.context_length))


def _reasons(  # noqa: PLR0917 - the parts of one sentence each
    length: int,
    wanted: int,
    beyond: dict[int, float],
    taken: dict[int, int],
    free_bytes: int | None,
    limit: int,
) -> list[str]:
    shares = ", ".join(f"{one:,}: {share:.1%}" for one, share in beyond.items())
    lines = [
        f"chunk: {length:,} tokens",
        f"  tokens that stand further into their document than a row is long, by its length: {shares}",
    ]
    if beyond[wanted] <= _MAX_BEYOND:
        lines.append(f"  {wanted:,} is the least of these with at most {_MAX_BEYOND:.0%}")
    else:
        lines.append(
            f"  more than {_MAX_BEYOND:.0%} at every length: the longest, `model.context_length`, is {limit:,}"
        )
    room = "not known here" if free_bytes is None else f"{free_bytes / 1e9:.1f} GB"
    lines.append(f"  training one row of {length:,} takes about {taken[length] / 1e9:.2f} GB; free: {room}")
    if length < wanted:
        lines.append(f"  a row of {wanted:,} would take {taken[wanted] / 1e9:.2f} GB, so the memory decides")
    return lines


def share_beyond(lengths: NDArray[np.int64], length: int) -> float:
    """Share of tokens with more than `length` - 1 tokens of their document before them."""
    return float(np.maximum(lengths - length, 0).sum() / max(1, lengths.sum()))


def row_bytes(shape: ModelConfig, length: int, *, precision: str) -> int:
    """Bytes that training on one row at once takes, the program itself left out."""
    kept = kept_bytes(shape.model_copy(update={"context_length": length}), rows=1, precision=precision)
    return static_bytes(shape) + round(WORKING_SHARE * kept)


def _candidates(limit: int) -> Sequence[int]:
    """Powers of two up to the limit, and the limit."""
    powers = [1 << bits for bits in range(_SHORTEST.bit_length() - 1, limit.bit_length()) if 1 << bits < limit]
    return [*powers, limit]
