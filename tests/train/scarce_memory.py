"""A training whose process may take hardly more memory than it has: the kernel, not a test double, says no.

scarce_memory.py DIRECTORY MEBIBYTES...     one run for each limit above what the process has, each then again without
a limit; prints one line of JSON for each: how both ended, how long the first computed, and what it told
"""

import json
import os
import resource
import sys
import traceback
from pathlib import Path

import torch
import torch._dynamo  # what PyTorch would import later is here before the limit
from tiny_training import new_trainer

from chatwright.foundation.errors import ChatwrightError
from chatwright.model.config import ModelConfig
from chatwright.model.network import Network
from chatwright.train.batches import MicroBatch
from chatwright.train.objectives import next_token

ROWS, LENGTH, VOCABULARY = 64, 64, 4096  # the scores of all rows alone take 64 MiB, and their gradient as much


class Rows:
    """All rows of a step in one micro-batch."""

    fingerprint = "rows"

    def step(self, number: int) -> list[MicroBatch]:
        ids = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(number))
        return [MicroBatch(ids[:, :-1], ids[:, 1:], ROWS * LENGTH)]


def train(directory: Path, spare_bytes: int | None) -> None:
    shape = ModelConfig(
        width=16, layers=2, heads=2, key_heads=1, head_width=8, mlp_width=24, context_length=LENGTH,
        vocabulary_size=VOCABULARY,
    )  # fmt: skip
    network = Network(shape)
    network.initialise(torch.Generator().manual_seed(0))
    next_token(network, Rows().step(0)[0].split(LENGTH)[0]).backward()  # libraries take their own memory once
    network.zero_grad()
    if spare_bytes is not None:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + spare_bytes, taken + spare_bytes))
    new_trainer(directory, network=network, steps=4, source=Rows(), checkpoint_every=2).run()


def ended(directory: Path, spare_bytes: int | None) -> tuple[int, str]:
    """The exit status of a process that trains, negative for a signal, and what it printed."""
    told = directory.with_name("told")
    process = os.fork()
    if process == 0:
        file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 2)
        try:
            train(directory, spare_bytes)
        except ChatwrightError as error:
            os.write(2, f"{error}\n".encode())
            os._exit(error.exit_code)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(99)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), told.read_text(errors="replace")


def seconds_of_children() -> float:
    """What processes that have ended have computed: a busy machine does not lengthen it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    torch.set_num_threads(1)
    for number in map(int, sys.argv[2:]):
        directory = Path(sys.argv[1]) / str(number)
        directory.mkdir(parents=True)
        began = seconds_of_children()
        code, told = ended(directory, number << 20)
        seconds = seconds_of_children() - began
        again, told_again = ended(directory, None)
        result = {"mebibytes": number, "code": code, "seconds": seconds, "told": told, "again": again}
        print(json.dumps(result | {"told_again": told_again}), flush=True)


if __name__ == "__main__":
    main()
