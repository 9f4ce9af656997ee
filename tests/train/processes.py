"""Processes that train, forked from one that has PyTorch loaded: a hundred of them cost seconds, not minutes.

Each is a process of its own, with its own environment; it can be stopped, killed and called again.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from tiny_training import DrawnSource, Poison, digest, new_network, new_trainer

from chatwright.foundation.errors import ChatwrightError
from chatwright.foundation.stopping import stop_requested
from chatwright.train.objectives import next_token
from chatwright.train.optimizers import OptimizerConfig

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["chatwright.train.loop"])
DEADLINE_S = 60


class Ended(NamedTuple):
    """A process that is gone."""

    code: int  # negative: the signal that ended it
    output: str  # what it printed, both streams


class Training:
    """One process; `options` are those of `_train`."""

    def __init__(self, directory: Path, *, told: str = "told", **options: Any):
        directory.mkdir(parents=True, exist_ok=True)
        rank = options.get("environment", {}).get("RANK", "0")
        self._told = directory.with_name(f"{directory.name}.{told}.{rank}")
        self._told.unlink(missing_ok=True)
        self.process = _CONTEXT.Process(target=_child, args=(directory, self._told, options))
        self.process.start()

    def signal(self, number: int) -> None:
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def kill(self) -> Ended:
        self.signal(signal.SIGKILL)
        return self.wait()

    def wait(self, *, seconds: float = DEADLINE_S) -> Ended:
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {seconds} s:\n{self.told()}")
        return Ended(self.process.exitcode, self.told())

    def finish(self) -> str:
        """The digest of the trained weights."""
        ended = self.wait()
        assert ended.code == 0, ended.output
        return next(line for line in ended.output.splitlines() if line.startswith("digest ")).split()[1]

    def told(self) -> str:
        """What it has printed so far."""
        return self._told.read_text(errors="replace") if self._told.exists() else ""


def start_ranks(directory: Path, size: int, *, per_machine: int = 0, **options: Any) -> list[Training]:
    """So many processes that train one model over gloo, as if on machines of so many; on one if that is left out."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    shared["LOCAL_WORLD_SIZE"] = str(per_machine or size)
    return [
        Training(directory, **options, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(size)
    ]


def wait_until_ready(training: Training) -> None:
    """Until it hears signals, or is gone."""
    wait_until(lambda: "ready" in training.told() or not training.process.is_alive())


def only_one_lives(trainings: list[Training]) -> bool:
    """Whether all but one of the processes are gone."""
    return sum(training.process.is_alive() for training in trainings) == 1


def wait_until(condition, *, seconds: float = DEADLINE_S) -> None:
    """Look every few milliseconds."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            raise AssertionError("the condition did not come true")
        time.sleep(0.002)


def saved(directory: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights and optimizer state of a checkpoint."""
    place = directory / "checkpoints" / f"step-{step:08d}"
    return {
        f"{name}/{key}": tensor
        for name in ("weights", "optimizer")
        for key, tensor in load_file(place / f"{name}.safetensors").items()
    }


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether all tensors are equal to the bit."""
    return one.keys() == other.keys() and all(
        torch.equal(one[key].view(torch.int32), other[key].view(torch.int32)) for key in one
    )


def _child(directory: Path, told: Path, options: dict[str, Any]) -> None:
    file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - until the process ends
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.update(options.pop("environment", {}))
    torch.set_num_threads(1)
    try:
        _train(directory, **options)
    except ChatwrightError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def _train(
    directory: Path,
    *,
    steps: int = 20,
    rows: int = 8,
    stop_after: int | None = None,
    poison: dict[str, Any] | None = None,
    damage: dict[str, int] | None = None,
    flip: dict[str, int] | None = None,
    odd_rank: int | None = None,
    slow_step_s: float = 0.0,
    slow_micro_batch_s: float = 0.0,
    **loop: Any,
) -> None:
    network, source = new_network(), DrawnSource(rows=rows)
    objective = next_token if poison is None else Poison(network=network, source=source, **poison)
    with stop_requested() as stop:
        print("ready")
        objective = _Slow(objective, slow_micro_batch_s) if slow_micro_batch_s else objective
        source = _Watched(source, stop, stop_after, slow_step_s)
        here = int(os.environ.get("RANK", "0"))
        rate = 3e-3 if here != odd_rank else 3.001e-3
        fields = {"source": source, "objective": objective, "optimizer": OptimizerConfig(learning_rate=rate), **loop}
        trainer = new_trainer(directory, network=network, steps=steps, **fields)
        before = digest(network)
        with contextlib.ExitStack() as after:
            after.callback(lambda: print("changed" if digest(network) != before else "unchanged"))
            if damage is not None and os.environ.get("RANK", "0") == str(damage["rank"]):
                source.at(damage["step"], lambda: _spoil(trainer))
            if flip is not None and here == flip["rank"]:
                source.at(flip["step"], lambda: flip_bit(network.lm_head.weight, bit=flip["bit"]))
            trainer.run(stop)
    print("digest", digest(network))


def flip_bit(tensor: torch.Tensor, *, bit: int, place: int = 7) -> None:
    """One bit of one number, in place."""
    tensor.detach().view(-1).view(torch.int32)[place] ^= 1 << bit if bit < 31 else -(1 << 31)


def _spoil(trainer) -> None:
    """As a flipped bit would: one number of the optimizer's state."""
    tensors = trainer._optimizer.tensors()
    next(tensor for name, tensor in tensors.items() if name.startswith("exp_avg.")).view(-1)[0] = math.nan
    trainer._optimizer.load(tensors)


def parted() -> dict[str, Any]:
    """A measurement that falls on the first rank for long, and on the others never."""
    _measured.append(0)
    return {"bits_per_byte": {"all": 9.0 - len(_measured) if os.environ.get("RANK", "0") == "0" else 9.0}}


_measured: list[int] = []  # by this process


class _Slow:
    """An objective that takes its time."""

    def __init__(self, objective, seconds: float):
        self._objective = objective
        self._seconds = seconds

    def __call__(self, network, batch):
        time.sleep(self._seconds)
        return self._objective(network, batch)


class _Watched:
    """A source that asks for a stop in the midst of a step, or takes its time."""

    def __init__(self, source: DrawnSource, stop, stop_after: int | None, slow_step_s: float):
        self.fingerprint = source.fingerprint
        self._source = source
        self._stop = stop
        self._stop_after = stop_after
        self._slow_step_s = slow_step_s
        self._at: dict[int, Any] = {}

    def at(self, number: int, act) -> None:
        """Once, as the data of a step is asked for."""
        self._at[number] = act

    def step(self, number: int):
        if self._stop_after is not None and number == self._stop_after - 1:
            self._stop.requested = True
        self._at.pop(number, lambda: None)()
        if self._slow_step_s:
            time.sleep(self._slow_step_s)
        return self._source.step(number)
