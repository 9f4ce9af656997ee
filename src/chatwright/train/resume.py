"""What a checkpoint's state says of the run it belongs to: whether this run may go on from it, and to the same bits.

Equal bits need equal circumstances: software, device, number format, threads and the order of sums. A difference is
told by name, never hidden. Data of another kind or another length of run is refused.
"""

import platform
from pathlib import Path
from typing import Any, NamedTuple

import torch

from chatwright.foundation.console import say
from chatwright.foundation.devices import Placement
from chatwright.foundation.errors import RefusedError
from chatwright.train.reduction import ReductionName

STATE_VERSION = 2
SCARCE = {  # where memory runs out in training, what is kept and what helps
    "kept": "the newest checkpoint: the same command goes on from there",
    "hint": "free memory or raise the limit; or set `recompute = true`, or lower `micro_rows` (in `[pretrain]` the "
    "same run goes on with it); or begin anew with a smaller model",
}


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


def tell_differences(before: dict[str, Any], now: dict[str, Any]) -> None:
    """One line for the person for each."""
    for difference in differences(before, now):
        say(f"  note: {difference}: the result may not be the same to the bit")


class Belonging(NamedTuple):
    """What a run is: its checkpoints are no other's."""

    fingerprint: str  # of its order of data
    steps: int
    identity: dict[str, Any]  # what the fingerprint is made of, by names that a person understands

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"source": self.fingerprint, "steps": self.steps, "identity": self.identity}


def refuse_foreign(state: dict[str, Any], run: Belonging, *, directory: Path) -> None:
    """Let only a run of the same data and length go on from this state.

    Raises:
        RefusedError: it belongs to another run, or was written by another version; the difference is named.
    """
    if state.get("version") != STATE_VERSION:
        raise RefusedError(
            f"the checkpoint in `{directory}` was made by another version: its state has version "
            f"{state.get('version', 1)}, this reads {STATE_VERSION}",
            hint=f"delete `{directory}` to begin anew",
        )
    if state["source"] != run.fingerprint or state["steps"] != run.steps:
        before = {"steps": state["steps"], **(state.get("identity") or {})}
        raise RefusedError(
            f"the checkpoint at step {state['step']} belongs to other data or another length of run",
            cause=differences_told(before, {"steps": run.steps, **run.identity}),
            kept=f"the checkpoints in `{directory}`",
            hint=f"put data and settings back as they were to go on, or delete `{directory}` to begin anew",
        )


_MOST_TOLD = 8


def differences_told(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What differs, in words; nothing where the states say nothing of it."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    lines = [f"{name} {_change(before.get(name), now.get(name))}" for name in names[:_MOST_TOLD]]
    more = [f"and {len(names) - _MOST_TOLD} more"] if len(names) > _MOST_TOLD else []
    return "; ".join(lines + more) or None


def _change(before: Any, now: Any) -> str:
    if before is None:
        return "is new"
    return "is gone" if now is None else f"was {before} and is now {now}"
