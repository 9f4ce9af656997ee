"""What a checkpoint's state says of the run it belongs to: whether this run may go on from it, and to the same bits.

Equal bits need equal circumstances: software, device, number format, threads and the order of sums. A difference is
told by name, never hidden. Data of another kind or another length of run is refused.
"""

import platform
from pathlib import Path
from typing import Any

import torch

from chatwright.foundation.devices import Placement
from chatwright.foundation.errors import RefusedError
from chatwright.train.reduction import ReductionName

STATE_VERSION = 2


def circumstances(placement: Placement, *, reduction: ReductionName, num_ranks: int) -> dict[str, Any]:
    """Everything beside data and settings that a step's bits depend on."""
    is_cuda = placement.device.type == "cuda"
    return {
        "threads": placement.threads,
        "precision": placement.precision,
        "reduction": reduction,
        "ranks": num_ranks,
        "device": torch.cuda.get_device_name(placement.device) if is_cuda else platform.machine(),
        "instructions": "CUDA" if is_cuda else torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What has changed in a way that may change bits, one line each. Other ranks change none with exact sums."""
    exact = before.get("reduction") == now["reduction"] == "exact"
    return [
        f"{key} was {before.get(key, 'unknown')} and is now {value}"
        for key, value in now.items()
        if before.get(key) != value and not (exact and key == "ranks")
    ]


def refuse_foreign(state: dict[str, Any], *, fingerprint: str, steps: int, directory: Path) -> None:
    """Let only a run of the same data and length go on from this state.

    Raises:
        RefusedError: it belongs to another run, or was written by another version.
    """
    if state.get("version") != STATE_VERSION:
        raise RefusedError(
            f"the checkpoint in `{directory}` was made by another version: its state has version "
            f"{state.get('version', 1)}, this reads {STATE_VERSION}",
            hint=f"delete `{directory}` to begin anew",
        )
    if state["source"] != fingerprint or state["steps"] != steps:
        raise RefusedError(
            f"the checkpoint at step {state['step']} belongs to other data or another length of run",
            hint=f"delete `{directory}` to begin anew",
        )
