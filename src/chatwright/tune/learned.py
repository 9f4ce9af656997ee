"""The part of a model that a fine-tune trains, whichever it is: attached, measured, taken into the weights."""

import copy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from chatwright.foundation.streams import seed_for
from chatwright.model.adapter import Adapter
from chatwright.model.attachment import Attachment, Handle
from chatwright.model.bottleneck import Bottlenecks
from chatwright.model.directory import LoadedModel
from chatwright.model.network import Network
from chatwright.model.quantised import unpack
from chatwright.model.selection import select
from chatwright.tokens.tokenizer import TURN_END, TURN_START
from chatwright.tune.finetune_settings import FinetuneConfig
from chatwright.tune.memory import Foretold, foretold


class Size(NamedTuple):
    """How much is trained, and what it takes."""

    method: str
    trained: int
    total: int
    foretold: Foretold

    def facts(self) -> dict[str, Any]:
        """For the report."""
        told = {**self.foretold._asdict(), "total": self.foretold.total}
        return {**self._asdict(), "share": self.trained / self.total, "foretold": told}


class Learned:
    """What is trained of a base model.

    Args:
        base: the model; what is not trained of it is frozen.
        config: which part.
        seed: of an adapter's first values.
    """

    def __init__(self, base: LoadedModel, config: FinetuneConfig, *, seed: int):
        self._network = base.network
        self._config = config
        self._handles: list[Handle] = []
        self.adapter: Attachment | None = None
        if config.is_beside:
            self._network.requires_grad_(False)
            self.adapter = _adapter(base, config, seed=seed)
        self.module: nn.Module = self.adapter or (
            self._network if config.method == "all" else select(self._network, config.method)
        )
        self._first = self._own_numbers() if config.keeping.interpolate and self.adapter is None else {}

    def attach(self) -> None:
        """Let the network compute with what is trained."""
        if self.adapter is not None:
            self._handles = self.adapter.attach(self._network)

    def size(self) -> Size:
        """How much is trained."""
        shape = self._network.config
        trained = sum(part.numel() for part in self.module.parameters() if part.requires_grad)
        told = foretold(
            shape,
            numbers=self._config.base_numbers,
            trained=trained,
            is_beside=self.adapter is not None,
            tokens=self._config.micro_tokens,
        )
        return Size(self._config.method, trained, shape.num_parameters(), told)

    def finish(self) -> None:
        """Take an adapter off the network, and the network back to float32: it is to be merged next."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        unpack(self._network)

    def merge(self, share: float = 1.0) -> None:
        """Make the network the finished model, or one so far on the way to it from the base."""
        _merge(self._network, self.adapter, self._first, share)

    def merged_copy(self, share: float) -> Network:
        """The same in a copy, after `finish`."""
        made = copy.deepcopy(self._network)
        _merge(made, self.adapter, self._first, share)
        return made

    def _own_numbers(self) -> dict[str, Tensor]:
        return {name: part.detach().clone() for name, part in self._network.named_parameters() if part.requires_grad}


@torch.no_grad()
def _merge(network: Network, adapter: Attachment | None, first: dict[str, Tensor], share: float) -> None:
    if adapter is not None:
        adapter.merge(network, weight=share)
    elif share != 1.0:
        named = dict(network.named_parameters())
        for name, start in first.items():
            named[name].copy_(torch.lerp(start.to(named[name].device), named[name], share))


def _adapter(base: LoadedModel, config: FinetuneConfig, *, seed: int) -> Attachment:
    rows = _unmet_markers(base)
    made: Adapter | Bottlenecks
    if config.method == "lora":
        made = Adapter(base.network, config.lora, trained_tokens=rows)
    else:
        made = Bottlenecks(base.network, config.adapters, trained_tokens=rows)
    made.initialise(torch.Generator().manual_seed(seed_for(seed, "adapter")))
    return cast(Attachment, made)


def _unmet_markers(base: LoadedModel) -> tuple[int, ...]:
    """Turn markers that a base of ours never met in pretraining, so that their embeddings still are as drawn."""
    if base.lineage.get("stage") != "pretrain":
        return ()
    found = (base.tokenizer.special(token) for token in (TURN_START, TURN_END))
    return tuple(number for number in found if number is not None)
