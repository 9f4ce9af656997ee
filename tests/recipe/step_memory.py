"""Bytes that a real training step holds in this process, beside what the plan counts; prints both as JSON."""

import gc
import json
import sys
from pathlib import Path

import torch

from chatwright.foundation.devices import trim_memory
from chatwright.model.network import Network
from chatwright.recipe.plan.cost import memory
from chatwright.recipe.plan.shapes import shape_of
from chatwright.train.batches import MicroBatch
from chatwright.train.objectives import next_token
from chatwright.train.optimizers import Optimizer, OptimizerConfig

ROWS = 8


def resident() -> int:
    gc.collect()
    trim_memory()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def begin(shape):
    network = Network(shape)
    network.initialise(torch.Generator().manual_seed(0))
    return network, Optimizer(list(network.named_parameters()), OptimizerConfig())


def batch_of(shape, rows):
    ids = torch.randint(shape.vocabulary_size, (rows, shape.context_length), generator=torch.Generator().manual_seed(0))
    return MicroBatch(ids, ids, ids.numel())


def warm_up() -> None:
    """What libraries take once is not the step's."""
    shape = shape_of(64, 1, vocabulary_size=64, context_length=16)
    network, optimizer = begin(shape)
    next_token(network, batch_of(shape, 1)).backward()
    optimizer.step(1.0)


def main() -> None:
    torch.set_num_threads(1)
    warm_up()
    shape = shape_of(256, 4, vocabulary_size=2048, context_length=128)
    batch = batch_of(shape, ROWS)
    before = resident()
    network, optimizer = begin(shape)
    next_token(network, batch).backward()
    optimizer.step(1.0)
    with_gradients = resident()
    optimizer.zero_grad()
    static = resident()
    loss = next_token(network, batch)
    kept = resident() - static
    assert loss.requires_grad
    plan = memory(shape, micro_rows=ROWS, precision="float32")
    figures = {
        "gradients": (with_gradients - static, plan.gradients),
        "weights and moments": (static - before, plan.weights + plan.moments),
        "activations": (kept, plan.activations),
    }
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main()
