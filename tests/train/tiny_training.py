"""A training small enough for tests, run in this process, or as a program that can be stopped, killed and called again:

tiny_training.py DIRECTORY STEPS     prints the SHA-256 of the trained weights
"""

import hashlib
import sys
from pathlib import Path

import torch
from torch import nn

from chatwright.foundation import storage
from chatwright.foundation.devices import Placement
from chatwright.foundation.errors import ChatwrightError
from chatwright.foundation.stopping import StopFlag, stop_requested
from chatwright.model.adapter import Adapter, LoraConfig
from chatwright.model.config import ModelConfig
from chatwright.model.network import Network
from chatwright.train.batches import IGNORED, MicroBatch
from chatwright.train.loop import LoopConfig, Trainer
from chatwright.train.metrics import METRICS
from chatwright.train.objectives import next_token
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.schedule import ScheduleConfig

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
        evaluate=lambda: {"weights": float(sum(parameter.sum() for parameter in trained.parameters()))},
    )


def digest(module: nn.Module) -> str:
    """SHA-256 over the bits of all parameters."""
    bits = hashlib.sha256()
    for parameter in module.parameters():
        bits.update(parameter.detach().contiguous().numpy().tobytes())
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
