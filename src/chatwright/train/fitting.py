"""How many positions are computed at once: found by trying what fits and what is fastest, lowered when memory runs out.

The batch of a step stays the same whatever is found: its rows are split into more or fewer micro-batches, and gradients
are accumulated. Not for the batch itself, which changes what is learned, nor for memory of weights and optimizer.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from chatwright.foundation import storage
from chatwright.foundation.devices import ranks_of_machine, trim_memory
from chatwright.foundation.errors import OutOfMemoryError, RefusedError
from chatwright.foundation.memory import available_bytes, is_out_of_memory
from chatwright.train.batches import MicroBatch

FITTING = "fitting.json"

USABLE_SHARE = 0.8  # of the memory that is free: the rest is for fragments and for other programs
WORKING_SHARE = 1.25  # what a pass takes at its peak over what it keeps for the backward pass
_CANDIDATES = 3
_REPEATS = 2
_WORTHWHILE_STEPS = 100  # a shorter run is over before a faster size has paid for its search
_GAIN = 1.03  # a smaller size must be faster by this to be taken: less is the clock's noise
_SMALLEST = 512  # positions; below, matrices are too short to fill a core's pipelines


class Found(NamedTuple):
    """What the search decided, with its reason for the person."""

    positions: int  # at once, at most
    reason: str


class Work(NamedTuple):
    """What a search tries: a forward and backward pass whose gradients are thrown away."""

    gradient: Callable[[MicroBatch], Any]
    parameters: Sequence[nn.Parameter]
    device: torch.device
    steps: int  # of the run
    bytes_to_come: int = 0  # what the run will hold beside a pass and does not hold yet

    def run(self, batch: MicroBatch) -> float:
        """Seconds of one pass; the random stream and the gradients are afterwards as they were."""
        devices = [self.device] if self.device.type == "cuda" else []
        before = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None  # else a pass would add to it in place
        with torch.random.fork_rng(devices=devices):
            try:
                began = time.perf_counter()
                self.gradient(batch)
                if devices:
                    torch.cuda.synchronize(self.device)
                return time.perf_counter() - began
            finally:
                for parameter, gradient in zip(self.parameters, before, strict=True):
                    parameter.grad = gradient


def release(device: torch.device) -> None:
    """Give back what a failed pass left."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    trim_memory()


class Fitting:
    """The most positions of a micro-batch, or None where they are taken as the source gives them."""

    def __init__(self, positions: int | None = None):
        self.positions = positions

    def divided(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """A step's micro-batches, split where they are too large."""
        if self.positions is None:
            return list(batches)
        return [part for batch in batches for part in batch.split(self.positions)]

    def lower(self, batches: Sequence[MicroBatch]) -> None:
        """Halve the largest micro-batch that was tried.

        Raises:
            OutOfMemoryError: there is nothing left to halve.
        """
        divisible = [batch.ids_BT.numel() for batch in batches if batch.is_divisible]
        largest = max(batch.ids_BT.numel() for batch in batches)
        if not divisible or max(divisible) < largest:
            rows, length = max((batch.ids_BT.shape for batch in batches), key=lambda shape: shape[0] * shape[1])
            raise OutOfMemoryError(
                f"memory ran out in a micro-batch of {rows} x {length} tokens, which cannot be split further",
                kept="the newest checkpoint",
                hint="`recompute = true`, fewer `micro_rows`, a lower `precision`, a shorter context, a smaller model",
            )
        self.positions = max(1, largest // 2)


def settled(directory: Path, work: Work, batch: MicroBatch) -> Found:
    """The search's result, made once for a run and then kept, so that a resumed run computes the same bits."""
    path = directory / FITTING
    if path.is_file():
        kept = storage.read_json(path)
        if not isinstance(kept, dict) or not isinstance(kept.get("positions"), int) or kept["positions"] < 1:
            raise RefusedError(f"`{path}` is damaged: {kept}", hint="delete it; the size is searched again")
        return Found(kept["positions"], str(kept.get("reason", "")))
    return search(work, batch)


def keep(directory: Path, found: Found) -> None:
    """Write down what was decided."""
    with storage.publish_file(directory / FITTING) as scratch:
        storage.write_json(scratch, found._asdict())


def search(work: Work, batch: MicroBatch) -> Found:
    """The size for a step's rows: the largest that fits, or a smaller one where it is measurably faster.

    Args:
        work: what a pass is.
        batch: one rank's rows of a step with the longest rows there are.

    Raises:
        OutOfMemoryError: not even one row fits.
    """
    sizes = _sizes(batch)
    room = _room(work)
    fitting = sizes
    if room is not None:
        needs = _needs(work, batch)
        fitting = [size for size in sizes if needs(size) * WORKING_SHARE <= room] or sizes[-1:]
    tried: list[tuple[int, float]] = []
    for size in fitting:
        rate = _rate(work, batch, size)
        if rate is None:
            continue
        tried.append((size, rate))
        if work.steps < _WORTHWHILE_STEPS or len(tried) == _CANDIDATES or size * batch.ids_BT.shape[1] <= _SMALLEST:
            break
    if not tried:
        Fitting().lower([batch.split(1)[0]])
    rows = _best(tried)
    said = ", ".join(f"{size} x {batch.ids_BT.shape[1]}: {rate:,.0f} tokens/s" for size, rate in tried)
    left_out = f"; {len(sizes) - len(fitting)} larger ones need more memory" if len(fitting) < len(sizes) else ""
    return Found(rows * batch.ids_BT.shape[1], f"{said}{left_out}")


def bytes_kept(work: Work, batch: MicroBatch) -> int:
    """Bytes that autograd keeps between forward and backward for this batch, weights left out, each storage once."""
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in work.parameters}

    def note(tensor: Tensor) -> Tensor:
        storage_ = tensor.untyped_storage()
        if storage_.data_ptr() not in own:
            kept[storage_.data_ptr()] = storage_.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work.run(batch)
    return sum(kept.values())


def _needs(work: Work, batch: MicroBatch) -> Callable[[int], float]:
    """Bytes that so many rows keep, from one row and from two: copies of weights in autocast's type do not grow."""
    length = batch.ids_BT.shape[1]
    one, *_ = batch.split(length)
    constant, of_a_row = 0, bytes_kept(work, one)
    if batch.is_divisible:
        two, *_ = batch.split(2 * length)
        try:
            both = bytes_kept(work, two)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            both = 2 * of_a_row  # then hardly one row fits, and every estimate says so
        constant, of_a_row = max(0, 2 * of_a_row - both), min(of_a_row, both - of_a_row)
    return lambda rows: constant + rows * of_a_row


def _sizes(batch: MicroBatch) -> list[int]:
    """Rows at once, largest first: the whole, then halves down to one; no part is left much emptier than the others."""
    sizes = [len(batch.ids_BT)]
    while batch.is_divisible and sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def free_bytes(device: torch.device) -> int | None:
    """Memory of a device that is free now for this rank; None where the system does not say."""
    if device.type != "cuda":
        free = available_bytes()
        return None if free is None else free // ranks_of_machine()  # which look at it at the same time
    torch.cuda.empty_cache()  # what PyTorch keeps of freed tensors is free for us, though the driver counts it as taken
    return int(torch.cuda.mem_get_info(device)[0])


def _room(work: Work) -> float | None:
    """Bytes that a pass may take now, so that there is room for what the run takes later."""
    free = free_bytes(work.device)
    return None if free is None else USABLE_SHARE * free - work.bytes_to_come


def _rate(work: Work, batch: MicroBatch, rows: int) -> float | None:
    """Positions a second at this size, the best of some passes; None where memory runs out."""
    part = batch.split(rows * batch.ids_BT.shape[1])[0]
    try:
        seconds = min(work.run(part) for _ in range(_REPEATS))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        seconds = None
    if seconds is None:  # outside `except`: the error's traceback holds what is to be released
        release(work.device)
        return None
    return part.ids_BT.numel() / seconds


def _best(tried: Sequence[tuple[int, float]]) -> int:
    """The fastest, where it is faster than the larger ones by more than noise."""
    rows, best = tried[0]
    for size, rate in tried[1:]:
        if rate > _GAIN * best:
            rows, best = size, rate
    return rows
