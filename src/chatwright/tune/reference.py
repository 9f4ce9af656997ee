"""The trained part of a network, and the network as it was before: what preferences and policies are held against."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from chatwright.foundation.devices import Placement
from chatwright.foundation.streams import seed_for
from chatwright.model.adapter import Adapter, LoraConfig
from chatwright.model.network import Network

Method = Literal["lora", "all"]


class Learner:
    """A network whose adapter, or all of which, is trained. With an adapter the network itself is the reference.

    Args:
        network: the model to begin from.
        method: low-rank updates on the frozen network, or every parameter.
        lora: size and place of the updates.
        seed: of the updates' first values.
        keeps_reference: whether the network as it was is needed later; with `all` it is a copy.
        placement: whose precision scores are computed in, as in training: in another, the policy would seem to have
            left its reference before the first step. Absent: float32.
    """

    def __init__(
        self,
        network: Network,
        *,
        method: Method,
        lora: LoraConfig,
        seed: int,
        keeps_reference: bool,
        placement: Placement | None = None,
    ):
        self.network = network
        self._placement = placement
        self._adapter: Adapter | None = None
        self._handles: list[Any] = []
        self._copy: Network | None = None
        if method == "lora":
            network.requires_grad_(False)
            self._adapter = Adapter(network, lora)
            self._adapter.initialise(torch.Generator().manual_seed(seed_for(seed, "adapter")))
            self._adapter.to(network.lm_head.weight.device)
            self._handles = self._adapter.attach(network)
        elif keeps_reference:
            self._copy = copy.deepcopy(network).requires_grad_(False).eval()

    @property
    def trained(self) -> nn.Module:
        """The module whose parameters change."""
        return self.network if self._adapter is None else self._adapter

    @property
    def adapter(self) -> Adapter | None:
        """The low-rank updates, if that is what is trained."""
        return self._adapter

    @contextlib.contextmanager
    def reference(self) -> Iterator[Network]:
        """The network as it was, without gradients, in the precision of training."""
        with torch.no_grad(), self._autocast():
            if self._adapter is not None:
                with self._adapter.switched_off():
                    yield self.network
                return
            assert self._copy is not None, "the learner was made to keep its reference"  # noqa: S101
            yield self._copy.to(self.network.lm_head.weight.device)

    @contextlib.contextmanager
    def policy(self) -> Iterator[Network]:
        """The network as it is, without gradients or dropout, in the precision of training."""
        with self._at_rest() as network, self._autocast():
            yield network

    @contextlib.contextmanager
    def writer(self) -> Iterator[Network]:
        """The policy for those who take its weights and not its modules: the updates stand in the weights."""
        with self._at_rest() as network:
            if self._adapter is None:
                yield network
                return
            weight = network.lm_head.weight
            merged = Network.without_values(network.config, weight.device).to(weight.dtype)
            merged.load_state_dict(network.state_dict())
            self._adapter.merge(merged)
            yield merged.eval()

    @contextlib.contextmanager
    def _at_rest(self) -> Iterator[Network]:
        """Without gradients or dropout; the loop sets the mode of training itself."""
        self.network.eval()
        self.trained.eval()
        with torch.no_grad():
            yield self.network

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._placement is None else self._placement.autocast()

    def finish(self) -> None:
        """Take the updates into the weights."""
        if self._adapter is not None:
            for handle in self._handles:
                handle.remove()
            self._handles = []
            self._adapter.merge(self.network)

    def facts(self) -> dict[str, Any]:
        """How much is trained."""
        total = self.network.config.num_parameters()
        trained = total if self._adapter is None else self._adapter.num_parameters()
        return {
            "method": "all" if self._adapter is None else "lora",
            "trained": trained,
            "total": total,
            "share": trained / total,
        }
