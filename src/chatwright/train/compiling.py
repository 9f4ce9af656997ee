"""Compiling the blocks: whether this machine can, and whether it pays for its start-up here.

One block is compiled and serves all layers. `"auto"` measures: it compiles only where the whole run is long beside the
start-up that others have seen, and keeps the result only where a pass is then faster. Bits differ from those of the
same run without it, by rounding; what was decided is kept with the run.
"""

import shutil
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.network import Network
from chatwright.train.batches import MicroBatch
from chatwright.train.fitting import Work

CompileSetting = Literal["auto"] | bool
COMPILING = "compiling.json"

# Seconds of a run before a start-up is even tried: up to some minutes on a CPU. On CUDA the start-up is shorter and
# what it brings more, as others have measured; no session of this project has.
_LEAST_RUN_S = {"cpu": 1800.0, "cuda": 600.0}
_GAIN = 1.02  # a compiled pass must be faster by this
_REPEATS = 3


class Decision(NamedTuple):
    """Whether blocks are compiled, with the reason for the person."""

    is_on: bool
    reason: str


def missing_compiler(device: torch.device) -> str | None:
    """What compiling needs and this machine lacks, or None."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        return "no C++ compiler (`g++` or `clang++`) is installed"
    if device.type == "cuda" and not torch.utils._triton.has_triton():
        return "Triton is not installed or does not know this GPU"
    return None


def compile_blocks(network: Network, *, is_on: bool) -> None:
    """Let every block run compiled, or as written again."""
    for block in network.model.layers:
        if is_on:
            block.compile()
        else:
            block._compiled_call_impl = None  # what `Module.compile` sets; it has no way back of its own


def decide(
    network: Network, setting: CompileSetting, *, work: Work, batch: MicroBatch | None, passes: int, directory: Path
) -> Decision:
    """Whether to compile: as asked, or as measured once for this run.

    Args:
        network: whose blocks are tried; they are as before afterwards.
        setting: as the recipe says.
        work: a pass, to be timed.
        batch: for `"auto"`, a micro-batch like those to come; None where the source does not know one.
        passes: micro-batches of the whole run on this rank.
        directory: where an earlier decision may be kept.

    Raises:
        UsageError: it was asked for, and this machine cannot.
    """
    lacking = missing_compiler(work.device)
    if setting == "auto":
        return _kept(directory) or _measured(network, lacking, work=work, batch=batch, passes=passes)
    if setting and lacking:
        raise UsageError(
            f"`compile = true` cannot be done here: {lacking}", hint='install it, or set `compile = "auto"`'
        )
    return Decision(setting, "as the recipe says")


def keep(directory: Path, decision: Decision) -> None:
    """Write down what was decided."""
    with storage.publish_file(directory / COMPILING) as scratch:
        storage.write_json(scratch, decision._asdict())


def _kept(directory: Path) -> Decision | None:
    path = directory / COMPILING
    if not path.is_file():
        return None
    kept: Any = storage.read_json(path)
    if not isinstance(kept, dict) or not isinstance(kept.get("is_on"), bool):
        raise RefusedError(f"`{path}` is damaged: {kept}", hint="delete it; it is measured again")
    return Decision(kept["is_on"], str(kept.get("reason", "")))


def _measured(network: Network, lacking: str | None, *, work: Work, batch: MicroBatch | None, passes: int) -> Decision:
    """Whether a compiled pass is faster, where the run is long enough to ask."""
    if lacking or batch is None:
        return Decision(False, lacking or "this training's batches are not known beforehand")
    plain = _best(work, batch)
    if plain * passes < _LEAST_RUN_S[work.device.type]:
        return Decision(False, f"a run of about {plain * passes:.0f} s is over before it pays")
    began = time.monotonic()
    compile_blocks(network, is_on=True)
    try:
        work.run(batch)
        start_up = time.monotonic() - began
        compiled = _best(work, batch)
    except (RuntimeError, OSError) as error:  # a compiler that fails in its own ways; the run goes on without
        return Decision(False, f"compiling failed: {str(error).splitlines()[0][:200]}")
    finally:
        compile_blocks(network, is_on=False)
    said = f"a pass takes {compiled:.3f} s compiled and {plain:.3f} s as written, start-up {start_up:.0f} s"
    return Decision(plain > _GAIN * compiled, said)


def _best(work: Work, batch: MicroBatch) -> float:
    return min(work.run(batch) for _ in range(_REPEATS))
