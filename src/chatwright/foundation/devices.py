"""Which device, how many threads, which number format: chosen here once, and said."""

import ctypes
import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError, UsageError

PrecisionName = Literal["auto", "float32", "bfloat16", "float16", "float8"]

_KEPT_PRECISIONS = frozenset(get_args(PrecisionName)) - {"auto"}
_FLOAT8_CAPABILITY = (8, 9)  # of CUDA: Ada and Hopper are the first to multiply 8-bit floats
_PLACEMENT = "placement.json"

# bfloat16 must beat float32 by this much in the probe to be worth its rounding.
_WORTHWHILE_GAIN = 1.25


class Placement(NamedTuple):
    """Where and how a model computes."""

    device: torch.device
    precision: str  # of matrix products: a `PrecisionName` but "auto"; weights stay float32 in training
    threads: int
    reason: str  # why this precision, for the person

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The type for autocast, or None where everything is float32."""
        return autocast_dtype(self.precision)

    def autocast(self) -> AbstractContextManager[Any]:
        """This precision for a forward pass."""
        dtype = self.autocast_dtype
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)


def autocast_dtype(precision: str) -> torch.dtype | None:
    """The type for autocast; None where everything is float32. What float8 does not multiply is bfloat16."""
    if precision == "float32":
        return None
    return torch.bfloat16 if precision == "float8" else getattr(torch, precision)


def pick_device(name: str = "auto") -> torch.device:
    """The device asked for, or the best at hand: CUDA, else the CPU.

    Of several GPUs the one of this process's place among those that torchrun has started on this machine.

    Raises:
        UsageError: the device asked for is not there.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if name in ("auto", "cpu"):
        return torch.device("cpu")
    if name == "cuda":
        why = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch sees none"
        raise UsageError(f"there is no GPU here: {why}", hint='set `device = "auto"` or `"cpu"`')
    raise UsageError(f"no such device: `{name}`", hint='set `device = "auto"`, `"cpu"` or `"cuda"`')


def usable_threads() -> int:
    """Cores this process may use: its affinity mask, not the machine's total."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ranks_of_machine() -> int:
    """How many processes of this training torchrun has started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def threads_of_a_rank() -> int:
    """This process's share of the cores, where torchrun started several on this machine; at least one."""
    return max(1, usable_threads() // ranks_of_machine())


def _keep_freed_memory() -> None:
    """Let glibc reuse the memory of freed tensors instead of giving it back and clearing it page by page.

    A training step frees and takes the same tensors again; each return to the system costs a page fault per 4 KiB
    (measured in `docs/log.md`). Other C libraries have no `mallopt` and are left as they are.
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of <malloc.h>
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def trim_memory() -> None:
    """Give the system what is free inside the heap; without it, tensors of ever new sizes leave ever more holes."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def place(
    *,
    device: str = "auto",
    precision: PrecisionName = "auto",
    threads: int = 0,
    width: int = 256,
    keeps_freed_memory: bool = True,
) -> Placement:
    """Choose device, precision and threads; with `auto` a short probe of this machine decides the precision.

    Args:
        device: "auto", "cpu" or "cuda".
        precision: a number format, or "auto".
        threads: for the CPU; 0 means all usable cores.
        width: the model's width, so that the probe multiplies matrices like the model's.
        keeps_freed_memory: on the CPU; a server, whose strangers decide what it holds, gives freed memory back.

    Raises:
        UsageError: the device is not there, or does not multiply in this precision.
    """
    chosen = pick_device(device)
    count = threads or usable_threads()
    torch.set_num_threads(count)
    if chosen.type == "cpu" and keeps_freed_memory:
        _keep_freed_memory()
    if precision == "float8":
        return Placement(chosen, precision, count, _reason_for_float8(chosen))
    if precision != "auto":
        return Placement(chosen, precision, count, "as the recipe says")
    if chosen.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Placement(chosen, "bfloat16", count, "this GPU computes bfloat16")
        return Placement(chosen, "float16", count, "this GPU has no bfloat16; loss scaling is on")
    gain = _bfloat16_gain(width)
    if gain >= _WORTHWHILE_GAIN:
        return Placement(chosen, "bfloat16", count, f"bfloat16 is {gain:.1f} times as fast as float32 on this CPU")
    return Placement(chosen, "float32", count, f"bfloat16 is only {gain:.1f} times as fast as float32 on this CPU")


def _reason_for_float8(device: torch.device) -> str:
    if device.type == "cpu":
        return "as the recipe says; emulated on a CPU: for studies, slower than bfloat16"
    lacking = _float8_lacks(torch.version.hip, torch.cuda.get_device_capability(device))
    if lacking:
        name = torch.cuda.get_device_name(device)
        raise UsageError(
            f'`precision = "float8"` cannot be done on this GPU: {name}',
            cause=lacking,
            hint='set `precision = "bfloat16"` or `"auto"`',
        )
    return "as the recipe says; what it does not multiply is bfloat16"


def _float8_lacks(hip: str | None, capability: tuple[int, int]) -> str | None:
    """What a GPU lacks to multiply e4m3 and e5m2 floats, or None."""
    if hip is not None:
        return f"only NVIDIA's are tried, this PyTorch is built for ROCm {hip}"
    if capability < _FLOAT8_CAPABILITY:
        found, needed = (".".join(map(str, pair)) for pair in (capability, _FLOAT8_CAPABILITY))
        return f"it has compute capability {found}, float8 begins at {needed}"
    return None


def settled_placement(directory: Path, *, device: str, precision: PrecisionName, threads: int, width: int) -> Placement:
    """Device, precision and threads of a run: settled once, then kept, so that a resumed run computes the same bits.

    With `threads` 0 the ranks of a machine divide its cores among them.
    """
    path = directory / _PLACEMENT
    if path.is_file():
        kept = _read_kept(path)
        placement = place(device=device, precision=kept["precision"], threads=threads or kept["threads"], width=width)
        return placement._replace(reason=kept["reason"])
    count = threads or threads_of_a_rank()
    placement = place(device=device, precision=precision, threads=count, width=width)
    if int(os.environ.get("RANK", "0")) == 0:
        with storage.publish_file(path) as scratch:
            kept = {"precision": placement.precision, "threads": placement.threads, "reason": placement.reason}
            storage.write_json(scratch, kept)
    return placement


def _read_kept(path: Path) -> dict[str, Any]:
    kept = storage.read_json(path)
    wanted = {"precision": str, "threads": int, "reason": str}
    if (
        not isinstance(kept, dict)
        or any(not isinstance(kept.get(key), kind) for key, kind in wanted.items())
        or kept["precision"] not in _KEPT_PRECISIONS
    ):
        raise RefusedError(f"`{path}` is damaged: {kept}", hint="delete it; the machine is probed again")
    return kept


def _bfloat16_gain(width: int, *, rows: int = 2048, repeats: int = 5) -> float:
    """Seconds of a float32 step through one linear layer over the seconds of its bfloat16 twin, best of repeats."""
    layer = torch.nn.Linear(width, 4 * width, bias=False)
    x_RD = torch.randn(rows, width, requires_grad=True)

    def seconds(dtype: torch.dtype | None) -> float:
        best = float("inf")
        for _ in range(repeats):
            began = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None):
                layer(x_RD).sum().backward()
            best = min(best, time.perf_counter() - began)
        return best

    return seconds(None) / seconds(torch.bfloat16)
