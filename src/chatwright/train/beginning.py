"""The network that a pretraining begins with: fresh or a base's, with its weights or, for shards, without memory.

Of a network that is to lie in shards no rank may hold all weights: they are made or read one tensor at a time, and each
rank keeps its part (sharding.py). The values are the same to the bit, on any number of ranks.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from chatwright.foundation.errors import RefusedError
from chatwright.foundation.streams import seed_for
from chatwright.model.config import ModelConfig
from chatwright.model.directory import load_model, open_model
from chatwright.model.network import Network
from chatwright.tokens.tokenizer import Tokenizer


class Beginning(NamedTuple):
    """A network before its first step."""

    network: Network
    values: Iterator[tuple[str, Tensor]] | None  # its weights, each whole, where it has no memory for them yet


def begin(
    config: ModelConfig, tokenizer: Tokenizer, *, seed: int, base: Path | None = None, in_shards: bool
) -> Beginning:
    """A fresh network for this tokenizer, or the base model's.

    Args:
        config: the shape of a fresh one.
        tokenizer: of its ids.
        seed: of the run; the weights have a stream of their own.
        base: the directory of a model to go on with.
        in_shards: whether it will be sharded, and takes no memory before.

    Raises:
        RefusedError: a vocabulary below the tokenizer's, or a base that is damaged; in shards its weights are checked
            as they are read.
    """
    if base is not None:
        if not in_shards:
            return Beginning(load_model(base).network, None)
        opened = open_model(base)
        return Beginning(Network.without_memory(opened.config), opened.values())
    if 0 < config.vocabulary_size < tokenizer.size:
        raise RefusedError(
            f"`model.vocabulary_size` is below the tokenizer's {tokenizer.size}: {config.vocabulary_size}",
            hint="leave it out: it is then the tokenizer's",
        )
    shape = config.model_copy(update={"vocabulary_size": config.vocabulary_size or tokenizer.size})
    generator = torch.Generator().manual_seed(seed_for(seed, "weights"))
    if in_shards:
        network = Network.without_memory(shape)
        return Beginning(network, network.first_values(generator))
    network = Network(shape)
    network.initialise(generator)
    return Beginning(network, None)
