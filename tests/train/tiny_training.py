"""A training small enough for tests, run in this process, or as a program that can be stopped, killed and called again:

tiny_training.py DIRECTORY STEPS     prints the SHA-256 of the trained weights
"""

import hashlib
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from chatwright.foundation import storage
from chatwright.foundation.devices import Placement
from chatwright.foundation.errors import ChatwrightError
from chatwright.foundation.stopping import StopFlag, stop_requested
from chatwright.model.adapter import Adapter, LoraConfig
from chatwright.model.config import ModelConfig
from chatwright.model.network import Network
from chatwright.train.batches import IGNORED, MicroBatch
from chatwright.train.habits import LoopConfig
from chatwright.train.loop import Trainer
from chatwright.train.metrics import METRICS
from chatwright.train.objectives import next_token
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.schedule import ScheduleConfig
from chatwright.train.sharding import local

VOCABULARY = 50
SHAPE = {"width": 16, "layers": 2, "heads": 2, "key_heads": 1, "head_width": 8, "mlp_width": 24, "context_length": 16}
TIMES = ("seconds", "tokens_per_second")


def new_network(*, seed: int = 0, deep: bool = False) -> Network:
    """A network as pretraining begins it; `deep` draws also the projections that begin at zero."""
    network = Network(ModelConfig(**SHAPE, vocabulary_size=VOCABULARY))
    generator = torch.Generator().manual_seed(seed)
    network.initialise(generator)
    if deep:
        for parameter in network.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.2, generator=generator)
    return network


class DrawnSource:
    """Rows drawn from the step's number, a third of their targets masked, unequally from row to row."""

    def __init__(self, *, rows: int = 4, micro_rows: int = 2, fingerprint: str = "drawn"):
        self.fingerprint = fingerprint
        self._rows = rows
        self._micro_rows = micro_rows

    def step(self, number: int) -> list[MicroBatch]:
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(VOCABULARY, (self._rows, 13), generator=generator)
        targets = ids[:, 1:].clone()
        limit = torch.arange(1, self._rows + 1).unsqueeze(1) * 3
        targets[torch.arange(12).unsqueeze(0) >= limit] = IGNORED
        starts = range(0, self._rows, self._micro_rows)
        parts = [(ids[i : i + self._micro_rows, :-1], targets[i : i + self._micro_rows]) for i in starts]
        return [MicroBatch(part, wanted, int((wanted != IGNORED).sum())) for part, wanted in parts]


class StoppingSource(DrawnSource):
    """The same, and somebody asks for a stop while step `at` is under way (counted from one)."""

    def __init__(self, flag: StopFlag, at: int, **fields):
        super().__init__(**fields)
        self._flag = flag
        self._at = at

    def step(self, number: int) -> list[MicroBatch]:
        if number == self._at - 1:
            self._flag.requested = True
        return super().step(number)


class Poison:
    """An objective that makes a value not finite at some steps, on all ranks or on one.

    Args:
        kind: "loss", "gradient", "weights" (one of them, before the forward pass), or "unused weight": one that no
            token of the batch meets.
        steps: data numbers of the steps; told by the ids of their first micro-batch.
        network: whose gradient or weights are meant.
        source: of the steps.
        micro_batch: which of a step's micro-batches is struck.
        rank: only on this rank.
        times: so often at most; None: whenever the step comes.
    """

    def __init__(
        self,
        kind: str,
        steps: Iterable[int],
        *,
        network: Network,
        source,
        micro_batch: int = 0,
        rank: int | None = None,
        times: int | None = None,
    ):
        self._marks = {_mark(source.step(step)[micro_batch]) for step in steps}
        self._kind = kind
        self._network = network
        self._is_here = rank is None or os.environ.get("RANK", "0") == str(rank)
        self._left = math.inf if times is None else times
        self._is_on = False
        network.lm_head.weight.register_hook(lambda g: g * math.nan if kind == "gradient" and self._is_on else g)

    def __call__(self, network: Network, batch: MicroBatch) -> Tensor:
        self._is_on = self._is_here and self._left > 0 and _mark(batch) in self._marks
        self._left -= self._is_on
        if self._is_on and self._kind == "weights":
            with torch.no_grad():
                self._network.lm_head.weight[0, 0] = math.nan
        loss = next_token(network, batch)
        if self._is_on and self._kind == "unused weight":
            unused = next(token for token in range(VOCABULARY) if token not in batch.ids_BT)
            with torch.no_grad():
                self._network.model.embed_tokens.weight.data[unused, 0] = math.nan
        return loss * math.inf if self._kind == "loss" and self._is_on else loss


def _mark(batch: MicroBatch) -> bytes:
    return batch.ids_BT.numpy().tobytes()


def new_trainer(
    directory: Path,
    *,
    network: Network | None = None,
    steps: int = 12,
    source: DrawnSource | None = None,
    objective=next_token,
    optimizer: OptimizerConfig | None = None,
    precision: str = "float32",
    with_adapter: bool = False,
    flops_per_token: float | None = None,
    evaluate=None,
    values=None,
    **loop,
) -> Trainer:
    """A trainer that saves every four steps, logs every three and measures every five."""
    network = network or new_network(deep=with_adapter)
    trained: nn.Module = network
    if with_adapter:
        network.requires_grad_(False)
        trained = Adapter(network, LoraConfig(rank=2, dropout=0.3))
        trained.initialise(torch.Generator().manual_seed(1))
        trained.attach(network)
    habits = {"checkpoint_every": 4, "log_every": 3, "evaluate_every": 5, "seed": 5} | loop
    return Trainer(
        network=network,
        trained=trained,
        objective=objective,
        source=source or DrawnSource(),
        config=LoopConfig(steps=steps, **habits),
        optimizer=optimizer or OptimizerConfig(),
        schedule=ScheduleConfig(),
        placement=Placement(torch.device("cpu"), precision, 1, "a test"),
        directory=directory,
        flops_per_token=flops_per_token,
        evaluate=evaluate or (lambda: {"weights": float(sum(parameter.sum() for parameter in trained.parameters()))}),
        values=values,
    )


def digest(module: nn.Module) -> str:
    """SHA-256 over the bits of all parameters, as far as this rank holds them."""
    bits = hashlib.sha256()
    for parameter in module.parameters():
        bits.update(local(parameter.detach()).contiguous().numpy().tobytes())
    return bits.hexdigest()


def metrics(directory: Path) -> list[dict]:
    """The log without what a clock gave."""
    lines = storage.read_lines(directory / METRICS)
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def main() -> None:
    torch.set_num_threads(1)
    directory, steps = Path(sys.argv[1]), int(sys.argv[2])
    network = new_network()
    try:
        with stop_requested() as stop:
            new_trainer(directory, network=network, steps=steps, source=DrawnSource(rows=8)).run(stop)
    except ChatwrightError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    sys.stdout.write(digest(network))


if __name__ == "__main__":
    main()
