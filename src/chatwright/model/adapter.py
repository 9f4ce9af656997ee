"""Few trained numbers on a frozen network: low-rank updates, attached and taken away, so that it stays as it is.

LoRA (Hu et al. 2021): a linear layer's output gains `scale * (x A^T) B^T` with A drawn at random and B at zero.
Beside it, the embedding rows of chosen tokens may be trained (turn markers that pretraining never met).

In a large layer the update is computed beside the frozen product. In a small one it is folded into the weights first,
`x (W + scale * B A)^T`: the same function, in fewer and larger products (see `_folds`).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chatwright.foundation import config as configuration
from chatwright.foundation import storage
from chatwright.foundation.config import Config
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.network import Network

ADAPTER_WEIGHTS = "adapter.safetensors"
ADAPTER_CONFIG = "adapter.json"
_FORMAT = "chatwright.adapter"
_VERSION = 1
EMBEDDING = "embed_tokens"
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@runtime_checkable
class Handle(Protocol):
    """Something attached."""

    def remove(self) -> None:
        """Take it away again."""
        ...


class LoraConfig(Config):
    """Size and place of the low-rank updates."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)  # the update is scaled by alpha / rank
    targets: tuple[str, ...] = ALL_LINEAR  # last part of the layers' names; "embed_tokens" adapts what words mean
    dropout: float = Field(default=0.0, ge=0, lt=1)  # on the update's input, in training only


class LowRank(nn.Module):
    """The update of one linear layer: (out, in) of rank r."""

    def __init__(self, layer: nn.Linear, config: LoraConfig):
        super().__init__()
        self.down = nn.Parameter(torch.zeros(config.rank, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, config.rank))
        self.scale = config.alpha / config.rank
        self._dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output."""
        down = nn.functional.linear(self._dropout(x), self.down * self.scale)
        return nn.functional.linear(down, self.up)

    def delta(self) -> Tensor:
        """The same as one matrix, for merging."""
        return self.up @ (self.down * self.scale)


class LowRankRows(nn.Module):
    """The update of the embedding: what a token means, and for a tied output how it is scored.

    As LoRA for embeddings in PEFT: the tokens' side begins at zero, the hidden side is drawn at random.
    """

    def __init__(self, embedding: nn.Embedding, config: LoraConfig):
        super().__init__()
        self.up = nn.Parameter(torch.zeros(embedding.num_embeddings, config.rank))
        self.down = nn.Parameter(torch.zeros(config.rank, embedding.embedding_dim))
        self.scale = config.alpha / config.rank

    def rows(self, ids: Tensor) -> Tensor:
        """What is added to the embeddings of ids."""
        return nn.functional.embedding(ids, self.up) @ (self.down * self.scale)

    def scores(self, x: Tensor) -> Tensor:
        """What is added to the scores of all tokens."""
        return nn.functional.linear(nn.functional.linear(x, self.down * self.scale), self.up)

    def delta(self) -> Tensor:
        """The same as one matrix, for merging."""
        return self.up @ (self.down * self.scale)


class Adapter(nn.Module):
    """Low-rank updates for a network, and embedding rows of chosen tokens.

    Args:
        network: the frozen base; it is not changed until `merge`.
        config: size and place.
        trained_tokens: ids whose embedding rows are trained too.
    """

    def __init__(self, network: Network, config: LoraConfig, *, trained_tokens: tuple[int, ...] = ()):
        super().__init__()
        self.config = config
        self.trained_tokens = trained_tokens
        self._is_on = True
        self._layers = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in config.targets
        }
        _require_targets(config, self._layers, is_tied=network.config.tied)
        self.updates = nn.ModuleDict({_key(name): LowRank(layer, config) for name, layer in self._layers.items()})
        has_rows = EMBEDDING in config.targets
        self.embedding = LowRankRows(network.model.embed_tokens, config) if has_rows else None
        if any(not 0 <= token < network.config.vocabulary_size for token in trained_tokens):
            raise UsageError(f"a trained token is outside the vocabulary: {trained_tokens}")
        if trained_tokens:
            self.token_rows = nn.Parameter(torch.zeros(len(trained_tokens), network.config.width))

    def initialise(self, generator: torch.Generator) -> None:
        """A as in the paper's code (uniform, Kaiming's bound), B at zero: the first forward equals the base's.

        For the embedding the drawn side's columns are about of unit length, so that a step moves a token as far
        whatever the rank. PEFT draws them longer by the root of the rank: the embedding then runs ahead of the layers.
        """
        for name in self._layers:
            update = self._update(name)
            bound = 1 / math.sqrt(update.down.shape[1])
            nn.init.uniform_(update.down, -bound, bound, generator=generator)
        if self.embedding is not None:
            nn.init.normal_(self.embedding.down, std=self.config.rank**-0.5, generator=generator)

    def attach(self, network: Network) -> list["Handle"]:
        """Let the network compute with the updates; remove the returned handles to take them away."""
        handles: list[Handle] = []
        for name, layer in self._layers.items():
            update = self._update(name)
            if self._folds(*layer.weight.shape):
                handles.append(_Replaced(layer, self._folded(layer, update)))
            else:
                handles.append(layer.register_forward_hook(self._adding(update)))
        if self.trained_tokens or self.embedding is not None:
            handles += self._attach_embedding(network)
        return handles

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Inside, an attached network computes as its base does."""
        self._is_on = False
        try:
            yield
        finally:
            self._is_on = True

    def _attach_embedding(self, network: Network) -> list["Handle"]:
        words, head = network.model.embed_tokens, network.lm_head
        if self._folds(*words.weight.shape):
            folded: list[Handle] = [_Replaced(words, lambda ids: nn.functional.embedding(ids, self._table(words)))]
            if network.config.tied:
                folded.append(_Replaced(head, lambda x: nn.functional.linear(x, self._table(words))))
            return folded
        handles: list[Handle] = [words.register_forward_hook(self._embed)]
        if network.config.tied:
            handles.append(head.register_forward_hook(self._score))
        return handles

    def _table(self, words: nn.Embedding) -> Tensor:
        """The embedding as trained so far."""
        if not self._is_on:
            return words.weight
        table = words.weight if self.embedding is None else words.weight + self.embedding.delta()
        if self.trained_tokens:
            index = torch.tensor(self.trained_tokens, device=table.device)
            table = table.index_add(0, index, self.token_rows)
        return table

    def _folds(self, rows: int, columns: int) -> bool:
        """Whether a layer's update is folded into its weights for each forward.

        Folding adds the gradient of the full weight, 2 T rows columns operations for T tokens; it spares the products
        beside it, 6 T rank (rows + columns). At equal counts it is about twice as fast, for the products are larger.
        """
        return not self.config.dropout and rows * columns <= 6 * self.config.rank * (rows + columns)

    def _folded(self, layer: nn.Linear, update: LowRank) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            weight = layer.weight + update.delta() if self._is_on else layer.weight
            return nn.functional.linear(x, weight, layer.bias)

        return forward

    def _adding(self, update: LowRank) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG001
            return output + update(arguments[0]).to(output.dtype) if self._is_on else output

        return hook

    def _update(self, layer: str) -> LowRank:
        return cast(LowRank, self.updates[_key(layer)])

    def _embed(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG002
        if not self._is_on:
            return output
        if self.embedding is not None:
            output = output + self.embedding.rows(arguments[0]).to(output.dtype)
        for row, token in enumerate(self.trained_tokens):
            output = output + (arguments[0] == token).unsqueeze(-1) * self.token_rows[row]
        return output

    def _score(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG002
        if self.embedding is not None and self._is_on:
            output = output + self.embedding.scores(arguments[0]).to(output.dtype)
        if not self.trained_tokens or not self._is_on:
            return output
        index = torch.tensor(self.trained_tokens, device=output.device)
        return output.index_add(-1, index, (arguments[0] @ self.token_rows.T).to(output.dtype))

    @torch.no_grad()
    def merge(self, network: Network) -> None:
        """Add the updates to the network's own weights; afterwards the adapter must not stay attached."""
        for name, layer in self._layers.items():
            layer.weight += self._update(name).delta()
        if self.embedding is not None:
            network.model.embed_tokens.weight += self.embedding.delta()
        for row, token in enumerate(self.trained_tokens):
            network.model.embed_tokens.weight[token] += self.token_rows[row]

    def num_parameters(self) -> int:
        """Numbers that are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save(self, directory: Path, *, base_digest: str) -> None:
        """Write the adapter alone; it loads on this base only."""
        with storage.publish(directory) as scratch:
            weights = {name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}
            save_file(weights, scratch / ADAPTER_WEIGHTS)
            facts = {"format": _FORMAT, "version": _VERSION, "base": base_digest}
            lora = self.config.model_dump(mode="json")
            storage.write_json(
                scratch / ADAPTER_CONFIG, {**facts, "lora": lora, "trained_tokens": list(self.trained_tokens)}
            )


def _require_targets(config: LoraConfig, layers: dict[str, nn.Linear], *, is_tied: bool) -> None:
    names = {EMBEDDING, *(name.rsplit(".", 1)[-1] for name in layers)}
    unmet = [target for target in config.targets if target not in names]
    if unmet or not layers:
        raise UsageError(
            f"no layer is named {', '.join(unmet) or 'in `targets`'}: nothing there would be trained",
            hint=f"name layers by the last part of their names: {', '.join(ALL_LINEAR)}",
        )
    if is_tied and "lm_head" in names:
        raise UsageError(
            "`lm_head` shares its weights with the embedding in this network, an update of one alone cannot be merged",
            hint="leave `lm_head` out of the targets",
        )


def _key(name: str) -> str:
    """A module dictionary takes no dots."""
    return name.replace(".", "/")


class _Replaced:
    """A module that computes by another function until this is removed; its weights and its class stay."""

    def __init__(self, module: nn.Module, function: Callable[[Tensor], Tensor]):
        self._module = module
        module.forward = function

    def remove(self) -> None:
        """Let the module's own class compute again."""
        del self._module.forward


def load_adapter(directory: Path, network: Network, *, base_digest: str) -> Adapter:
    """Read an adapter for exactly this base.

    Raises:
        RefusedError: it was trained on another base, or is damaged.
    """
    storage.verify(directory)
    facts = storage.read_json(directory / ADAPTER_CONFIG)
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT or facts.get("version") != _VERSION:
        raise RefusedError(f"`{directory}` is no adapter that this version reads")
    if facts.get("base") != base_digest:
        raise RefusedError(
            f"adapter `{directory}` was trained on another base model",
            hint="use the base model named in its lineage, or fine-tune again",
        )
    try:
        lora = configuration.validate(LoraConfig, facts["lora"], where=f"`{directory / ADAPTER_CONFIG}`")
        adapter = Adapter(network, lora, trained_tokens=tuple(int(token) for token in facts["trained_tokens"]))
        adapter.load_state_dict(load_file(directory / ADAPTER_WEIGHTS))
    except (UsageError, SafetensorError, RuntimeError, OSError, KeyError, TypeError, ValueError) as error:
        raise RefusedError(f"adapter `{directory}` does not fit its base: {error}", hint="fine-tune again") from error
    return adapter
