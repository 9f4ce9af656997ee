"""Several processes that train one model: who am I, sum with the others, wait for them. One process: nothing to do.

A process that ends or hangs is noticed by the others in their next exchange: they end with `RankLostError`, and the
same command goes on from the newest checkpoint.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from chatwright.foundation.errors import ChatwrightError, RankLostError, StorageFailedError
from chatwright.train.meeting import meet

TIMEOUT_S = 600
BETWEEN_STAGES_S = 30 * 24 * 3600  # the first rank may prepare data for long while the others wait
_SLOW_DISK_BYTES_S = 20e6  # what the first rank reads and writes may lie on a shared disk that others use, too
_MEETING_S = 900  # processes that are started again on a busy machine need their time until all are there

_GLOO = "gloo/"  # the place in its source that gloo names in whatever it raises, always a bare RuntimeError


class Ranks:
    """This process among those that torchrun started."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self._timeout_s = TIMEOUT_S

    def join(self, device: torch.device, *, timeout_s: int = TIMEOUT_S) -> None:
        """Meet the other processes, if that is not done; who is silent for `timeout_s` afterwards is lost.

        Meeting has a limit of its own.

        Args:
            device: this rank's. A GPU becomes the process's own: shards are put on the current one.
            timeout_s: from here on, of each exchange.
        """
        is_gpu = device.type == "cuda"
        if is_gpu:
            torch.cuda.set_device(device)
        if self.size > 1 and not dist.is_initialized():
            with self._losses_named():
                timeout = timedelta(seconds=_MEETING_S)  # whatever is allowed later, who never comes is soon told
                place = meet(self.rank, self.size, timeout)
                dist.init_process_group(
                    "nccl" if is_gpu else "gloo",
                    store=place,
                    rank=self.rank,
                    world_size=self.size,
                    timeout=timeout,
                    device_id=device if is_gpu else None,
                )
            self.wait()
        self.allow(timeout_s)

    def allow(self, timeout_s: int) -> None:
        """How long an exchange may take from here on, on this rank."""
        self._timeout_s = timeout_s
        self.limit([None])

    def limit(self, groups: Iterable[Any]) -> None:
        """What is allowed now holds for exchanges among these groups of ranks, too; None: all of them."""
        if self.size > 1 and dist.is_initialized():
            for group in groups:
                # PyTorch has no public name for it; torchtitan lowers its timeout after the first step likewise.
                dist.distributed_c10d._set_pg_timeout(timedelta(seconds=self._timeout_s), group)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def sums(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Numbers summed over all ranks, in one message."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        with self._losses_named():
            dist.all_reduce(tensor)
            values_of_all: list[float] = tensor.tolist()
            return values_of_all

    def sum(self, value: float, device: torch.device) -> float:
        """A number summed over all ranks."""
        return self.sums([value], device)[0]

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it holds on any rank, so that all do the same."""
        return self.sum(float(flag), device) > 0

    def firsts(self, values: Sequence[float], device: torch.device) -> list[float]:
        """The first rank's numbers, on all, to the bit; NaN stays NaN."""
        return self.sums([value if self.is_first else 0.0 for value in values], device)

    def of_first(self, value: int, device: torch.device) -> int:
        """The first rank's number, on all."""
        return round(self.firsts([float(value)], device)[0])

    def minimum(self, value: int, device: torch.device) -> int:
        """The smallest of all ranks' numbers."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.int64, device=device)
        with self._losses_named():
            dist.all_reduce(tensor, dist.ReduceOp.MIN)
            return int(tensor)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Gradients summed over all ranks, as one message."""
        if self.size == 1:
            return
        present = [p for p in parameters if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in present]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with self._losses_named():
            dist.all_reduce(flat)
        start = 0
        for parameter in present:
            parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    @contextlib.contextmanager
    def first_ahead(self) -> Iterator[None]:
        """The first rank does the block alone, then the others do: they find what it wrote."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def only_first(self, act: Callable[[], None], device: torch.device) -> None:
        """The first rank alone does what may fail; if it does, all end.

        Raises:
            ChatwrightError: the failure itself on the first rank, that there was one on the others.
        """
        failure: ChatwrightError | None = None
        if self.is_first:
            try:
                act()
            except ChatwrightError as error:
                failure = error
        if self.any(failure is not None, device):
            raise failure or StorageFailedError("the first rank could not save", hint="look at its output")

    @contextlib.contextmanager
    def patient(self, num_bytes: int) -> Iterator[None]:
        """Within, an exchange may take as long as so many bytes take on a slow disk, where that is longer."""
        allowed_s = self._timeout_s
        self.allow(max(allowed_s, int(num_bytes / _SLOW_DISK_BYTES_S)))
        try:
            yield
        finally:
            self.allow(allowed_s)

    def wait_for_stage(self) -> None:
        """Until all have done with a stage, which may take the first rank days."""
        self.allow(BETWEEN_STAGES_S)
        self.wait()

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1 and dist.is_initialized():
            with self._losses_named():
                dist.barrier()

    def broadcast(self, tensors: Iterable[Tensor], *, source: int = 0) -> None:
        """Give every rank the values of one."""
        if self.size > 1:
            with self._losses_named():
                for tensor in tensors:
                    dist.broadcast(tensor, source)

    @contextlib.contextmanager
    def _losses_named(self) -> Iterator[None]:
        """One error for what the back ends raise when a peer is gone or silent; some raise a bare RuntimeError."""
        try:
            yield
        except RuntimeError as error:
            raise self._loss(error) from error

    @contextlib.contextmanager
    def losses_told(self) -> Iterator[None]:
        """The same around what PyTorch exchanges by itself, as it does for shards: other errors stay what they are."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not (isinstance(error, dist.DistError) or _GLOO in str(error)):
                raise
            raise self._loss(error) from error

    def _loss(self, error: RuntimeError) -> RankLostError:
        return RankLostError(
            f"rank {self.rank} of {self.size} lost another process of this training: it ended, or did not answer",
            cause=str(error).partition("\n")[0][:300],
            kept="the newest checkpoint",
            hint="look at the output of the rank that failed first; the same command goes on from there",
        )


class DiskWork(NamedTuple):
    """What the first rank reads and writes, while the others wait as long as that may take."""

    ranks: Ranks
    device: torch.device
    num_bytes: int  # read or written at once, at most

    def patience(self) -> contextlib.AbstractContextManager[None]:
        """Within, an exchange may take as long as these bytes do."""
        return self.ranks.patient(self.num_bytes)

    def alone(self, act: Callable[[], None]) -> None:
        """The first rank alone does what may fail; if it does, all end.

        Raises:
            ChatwrightError: the failure itself on the first rank, that there was one on the others.
        """
        with self.patience():
            self.ranks.only_first(act, self.device)

    def step(self, find: Callable[[], int | None]) -> int | None:
        """The step that the first rank finds, on all: what verifies for one may be unreadable for another."""
        with self.patience():
            found = find() if self.ranks.is_first else None
            step = self.ranks.of_first(-1 if found is None else found, self.device)
        return None if step < 0 else step
