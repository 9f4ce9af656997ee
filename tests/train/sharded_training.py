"""A training of a few steps whose model lies in shards, as a program that torchrun's environment starts on each rank.

sharded_training.py DIRECTORY STEPS PARALLEL [stop]     saves at step 3 and at the end; `stop` ends it at step 3
"""

import sys
from pathlib import Path

import torch
from tiny_training import DrawnSource, new_network, new_trainer

from chatwright.foundation.errors import StoppedError
from chatwright.foundation.stopping import StopFlag
from chatwright.model.network import Network
from chatwright.train.average import AverageConfig
from chatwright.train.objectives import next_token
from chatwright.train.ranks import Ranks
from chatwright.train.sharding import whole_network


class StoppedSource(DrawnSource):
    """Somebody asks for a stop while the third step is under way."""

    def __init__(self, flag, **fields):
        super().__init__(**fields)
        self._flag = flag

    def step(self, number):
        self._flag.requested = self._flag.requested or number == 2
        return super().step(number)


def main() -> None:
    torch.set_num_threads(1)
    directory, steps, parallel, is_stopped = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], len(sys.argv) > 4
    network, values, flag = new_network(deep=True), None, StopFlag()
    if parallel != "ddp":
        network, values = Network.without_memory(network.config), network.named_parameters()
    # Five rows: the ranks' shares are unequal, and no matrix's rows divide evenly by three.
    source = StoppedSource(flag, rows=5, micro_rows=1) if is_stopped else DrawnSource(rows=5, micro_rows=1)
    (batch,) = DrawnSource(rows=2).step(99)
    trainer = new_trainer(
        directory,
        network=network,
        values=values,
        steps=steps,
        source=source,
        evaluate=lambda: {"nats": float(next_token(network, batch))},
        parallel=parallel,
        checkpoint_every=99,
        average=AverageConfig(share=0.7),  # saved beside the weights; not measured to be better, so not used
    )
    try:
        trainer.run(flag)
    except StoppedError:
        sys.exit(3)
    if parallel != "ddp":
        kept = trainer._state.snapshot(is_kept=Ranks().is_first)
        assert bool(kept.weights) == bool(kept.optimizer) == bool(kept.average) == Ranks().is_first
        plain = whole_network(network, is_first=Ranks().is_first)
        assert (plain is not None) == Ranks().is_first
        if plain is not None:
            sys.stdout.write(f"{sum(float(p.detach().double().abs().sum()) for p in plain.parameters())}")


if __name__ == "__main__":
    main()
