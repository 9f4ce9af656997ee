"""What every kind of adapter has in common: attached to a frozen network, switched off, merged, saved for one base.

Not here: what an adapter computes (adapter.py: low-rank updates; bottleneck.py: small layers beside the MLP), and how
a saved one is read again (adapter_files.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from chatwright.foundation import storage
from chatwright.foundation.errors import UsageError
from chatwright.model.network import Network

ADAPTER_WEIGHTS = "adapter.safetensors"
ADAPTER_CONFIG = "adapter.json"
FORMAT = "chatwright.adapter"
VERSION = 1


@runtime_checkable
class Handle(Protocol):
    """Something attached."""

    def remove(self) -> None:
        """Take it away again."""
        ...


class Replaced:
    """A module that computes by another function until this is removed; its weights and its class stay."""

    def __init__(self, module: nn.Module, function: Callable[[Tensor], Tensor]):
        self._module = module
        module.forward = function

    def remove(self) -> None:
        """Let the module's own class compute again."""
        del self._module.forward


def is_replaced(module: nn.Module) -> bool:
    """Whether another adapter computes in this module's place."""
    return "forward" in vars(module)


def require_plain(network: nn.Module) -> None:
    """That the weights say all that the network computes, for those who copy them.

    Raises:
        ValueError: an adapter is attached.
    """
    beside = [name for name, module in network.named_modules() if is_replaced(module) or module._forward_hooks]
    if beside:
        raise ValueError(f"an adapter computes beside the weights of {len(beside)} modules, the first is {beside[0]}")


class Attachment(nn.Module, ABC):
    """Trained numbers beside a frozen network, which is never changed until `merge`.

    Embedding rows of chosen tokens may be among them: turn markers that pretraining never met.
    """

    kind: str  # in the record on disk

    def __init__(self, network: Network, trained_tokens: tuple[int, ...]):
        super().__init__()
        self._is_on = True
        self.trained_tokens = trained_tokens  # ids whose embedding rows are trained too
        if any(not 0 <= token < network.config.vocabulary_size for token in trained_tokens):
            raise UsageError(f"a trained token is outside the vocabulary: {trained_tokens}")
        if trained_tokens:
            self.token_rows = nn.Parameter(torch.zeros(len(trained_tokens), network.config.width))

    @abstractmethod
    def attach(self, network: Network) -> list[Handle]:
        """Let the network compute with the adapter; remove the returned handles to take it away."""

    @abstractmethod
    def merge(self, network: Network, *, weight: float = 1.0) -> None:
        """Take the adapter into the network's own weights; it must not stay attached.

        Args:
            network: the base.
            weight: of the adapter; below one, the network stays nearer its base.
        """

    @abstractmethod
    def unmerge(self, network: Network, *, weight: float = 1.0) -> None:
        """Take a merged adapter out of the weights again, to rounding."""

    @abstractmethod
    def shrink(self, share: float) -> None:
        """Make what is added so much of what it was."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What makes the same adapter on the same base again, but for its weights; JSON."""

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Inside, an attached network computes as its base does."""
        self._is_on = False
        try:
            yield
        finally:
            self._is_on = True

    def _with_rows(self, ids_BT: Tensor, embedded_BTD: Tensor) -> Tensor:
        """Embeddings, with what the trained tokens gained."""
        for row, token in enumerate(self.trained_tokens):
            embedded_BTD = embedded_BTD + (ids_BT == token).unsqueeze(-1) * self.token_rows[row]
        return embedded_BTD

    def _with_row_scores(self, x: Tensor, scores: Tensor) -> Tensor:
        """Scores of a tied output, with what the trained tokens gained."""
        if not self.trained_tokens:
            return scores
        index = torch.tensor(self.trained_tokens, device=scores.device)
        return scores.index_add(-1, index, (x @ self.token_rows.T).to(scores.dtype))

    def _add_rows(self, network: Network, weight: float) -> None:
        for row, token in enumerate(self.trained_tokens):
            network.model.embed_tokens.weight[token] += weight * self.token_rows[row]

    def num_parameters(self) -> int:
        """Numbers that are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save(self, directory: Path, *, base_digest: str) -> None:
        """Write the adapter alone; it loads on this base only."""
        with storage.publish(directory) as scratch:
            weights = {name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}
            save_file(weights, scratch / ADAPTER_WEIGHTS)
            facts = {"format": FORMAT, "version": VERSION, "kind": self.kind, "base": base_digest}
            storage.write_json(scratch / ADAPTER_CONFIG, {**facts, **self.record()})
