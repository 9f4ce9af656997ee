"""A training in shards that begins, or goes on from its checkpoint, as a program that torchrun's environment starts.

sharded_beginning.py first|again DIRECTORY TOKENIZER [BASE]     each rank prints how many bytes of tensors it took at
most until its first step, in copies of the whole network, and a digest of all that it then held (`again`) or held after
its one step (`first`); `first` leaves the weights that it began with
"""

import hashlib
import json
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_training import new_trainer
from torch.profiler import ProfilerActivity, profile

from chatwright.foundation.memory import bytes_of
from chatwright.model.config import ModelConfig
from chatwright.tokens.tokenizer import load_tokenizer
from chatwright.train.average import AverageConfig
from chatwright.train.beginning import begin
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.ranks import Ranks
from chatwright.train.sharding import local, named_parts, whole_network

SHAPE = ModelConfig(width=64, layers=16, heads=4, key_heads=2, head_width=16, mlp_width=128, context_length=16)
SEED = 3


@contextmanager
def counted(trace: Path):
    """A list that holds, after the block, the most bytes that PyTorch's tensors took at once; once in a process."""
    most: list[int] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield most
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    most.append(max(event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]"))


def begun(directory: Path, tokenizer, base: Path | None):
    """A trainer whose moments come with its first step, and whose average begins there."""
    network, values = begin(SHAPE, tokenizer, seed=SEED, base=base, in_shards=True)
    trainer = new_trainer(
        directory / "run",
        network=network,
        values=values,
        steps=1,
        parallel="fsdp",
        optimizer=OptimizerConfig(kind="adamw"),
        average=AverageConfig(share=1.0),
        evaluate=lambda: {"weights": 0.0},
    )
    return trainer, network


def digest_of_all(trainer, network) -> str:
    """Of all bits of weights, moments and average that this rank holds."""
    bits = hashlib.sha256()
    for tensors in (named_parts(network), trainer._optimizer.tensors(), trainer._average.tensors()):
        for name, tensor in sorted(tensors.items()):
            bits.update(name.encode() + local(tensor.detach()).contiguous().numpy().tobytes())
    return bits.hexdigest()


def main() -> None:
    torch.set_num_threads(1)
    phase, directory, tokenizer = sys.argv[1], Path(sys.argv[2]), load_tokenizer(Path(sys.argv[3]))
    base = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    with counted(directory / f"trace{Ranks().rank}.json") as most:
        trainer, network = begun(directory, tokenizer, base)
        if phase == "again":
            trainer._restore(1)
    if phase == "first":
        plain = whole_network(network, is_first=Ranks().is_first)
        if plain is not None:
            save_file({name: p.detach() for name, p in plain.named_parameters()}, directory / "first.safetensors")
        trainer.run()
    told = {"copies": most[0] / bytes_of(network.parameters()), "digest": digest_of_all(trainer, network)}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
