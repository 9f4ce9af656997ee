"""A training whose process may take hardly more memory than it has: the kernel, not a test double, says no.

scarce_memory.py DIRECTORY
"""

import resource
import sys
from pathlib import Path

import torch
import torch._dynamo  # what PyTorch would import later is here before the limit
from tiny_training import new_trainer

from chatwright.model.config import ModelConfig
from chatwright.model.network import Network
from chatwright.train.batches import MicroBatch
from chatwright.train.objectives import next_token

ROWS, LENGTH, VOCABULARY = 64, 64, 4096
SPARE_BYTES = 60 << 20  # the scores of all rows alone take 64 MiB, and their gradient as much


class Rows:
    """All rows of a step in one micro-batch."""

    fingerprint = "rows"

    def step(self, number: int) -> list[MicroBatch]:
        ids = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(number))
        return [MicroBatch(ids[:, :-1], ids[:, 1:], ROWS * LENGTH)]


def main() -> None:
    torch.set_num_threads(1)
    shape = ModelConfig(
        width=16, layers=2, heads=2, key_heads=1, head_width=8, mlp_width=24, context_length=LENGTH,
        vocabulary_size=VOCABULARY,
    )  # fmt: skip
    network = Network(shape)
    network.initialise(torch.Generator().manual_seed(0))
    next_token(network, Rows().step(0)[0].split(LENGTH)[0]).backward()  # libraries take their own memory once
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + SPARE_BYTES, taken + SPARE_BYTES))
    new_trainer(Path(sys.argv[1]), network=network, steps=4, source=Rows()).run()


if __name__ == "__main__":
    main()
