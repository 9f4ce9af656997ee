"""Few trained numbers on a frozen network: low-rank updates, attached and taken away, so that it stays as it is.

LoRA (Hu et al. 2021): a linear layer's output gains `scale * (x A^T) B^T` with A drawn at random and B at zero.
Beside it, the embedding rows of chosen tokens may be trained (turn markers that pretraining never met).

In a large layer the update is computed beside the frozen product. In a small one it is folded into the weights first,
`x (W + scale * B A)^T`: the same function, in fewer and larger products (see `_folds`).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from chatwright.foundation.config import Config
from chatwright.foundation.errors import UsageError
from chatwright.model.attachment import Attachment, Handle, Replaced, is_replaced
from chatwright.model.network import Network
from chatwright.model.quantised import PackedLinear

EMBEDDING = "embed_tokens"
ALL = "all"  # as a target: every linear layer of the blocks, whatever the family calls them
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


Layer = nn.Linear | PackedLinear


class LoraConfig(Config):
    """Size and place of the low-rank updates."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)  # the update is scaled by alpha / rank
    # Last part of the layers' names, or "all" (of the blocks); "embed_tokens" adapts what words mean.
    targets: tuple[str, ...] = (ALL,)
    dropout: float = Field(default=0.0, ge=0, lt=1)  # on the update's input, in training only
    rank_stabilised: bool = False  # scaled by alpha / sqrt(rank) instead (Kalajdzievski 2023): steadier at high ranks
    magnitudes: bool = False  # DoRA (Liu et al. 2024): each row's length is trained apart from its direction

    def problems(self) -> Iterator[str]:
        """What DoRA does not go with."""
        if self.magnitudes and self.dropout:
            yield "`dropout` does not go with `magnitudes`: the update is part of the weights there"
        if self.magnitudes and EMBEDDING in self.targets:
            yield f"`magnitudes` are those of linear layers: leave `{EMBEDDING}` out of the targets"

    @property
    def scale(self) -> float:
        """What the update is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


class LowRank(nn.Module):
    """The update of one linear layer: (out, in) of rank r."""

    def __init__(self, layer: Layer, config: LoraConfig):
        super().__init__()
        self.down = nn.Parameter(torch.zeros(config.rank, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, config.rank))
        self.scale = config.scale
        self.magnitude = nn.Parameter(_row_lengths(layer.weight.detach())) if config.magnitudes else None
        self._dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output."""
        down = nn.functional.linear(self._dropout(x), self.down * self.scale)
        return nn.functional.linear(down, self.up)

    def delta(self) -> Tensor:
        """The same as one matrix, for merging."""
        return self.up @ (self.down * self.scale)

    def updated(self, weight: Tensor) -> Tensor:
        """The layer's weights with the update in them."""
        weight = weight + self.delta()
        if self.magnitude is None:
            return weight
        # The length is taken as given in the backward pass, as in the paper's section 4.3: it spares memory.
        return weight * (self.magnitude / _row_lengths(weight.detach())).unsqueeze(1)


def _row_lengths(weight: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=1)
    return lengths


class LowRankRows(nn.Module):
    """The update of the embedding: what a token means, and for a tied output how it is scored.

    As LoRA for embeddings in PEFT: the tokens' side begins at zero, the hidden side is drawn at random.
    """

    def __init__(self, embedding: nn.Embedding, config: LoraConfig):
        super().__init__()
        self.up = nn.Parameter(torch.zeros(embedding.num_embeddings, config.rank))
        self.down = nn.Parameter(torch.zeros(config.rank, embedding.embedding_dim))
        self.scale = config.scale

    def rows(self, ids: Tensor) -> Tensor:
        """What is added to the embeddings of ids."""
        return nn.functional.embedding(ids, self.up) @ (self.down * self.scale)

    def scores(self, x: Tensor) -> Tensor:
        """What is added to the scores of all tokens."""
        return nn.functional.linear(nn.functional.linear(x, self.down * self.scale), self.up)

    def delta(self) -> Tensor:
        """The same as one matrix, for merging."""
        return self.up @ (self.down * self.scale)


class Adapter(Attachment):
    """Low-rank updates for a network, and embedding rows of chosen tokens.

    Several may be attached, one after the other: their updates add up.

    Args:
        network: the frozen base; it is not changed until `merge`.
        config: size and place.
        trained_tokens: ids whose embedding rows are trained too.
    """

    kind = "lora"

    def __init__(self, network: Network, config: LoraConfig, *, trained_tokens: tuple[int, ...] = ()):
        super().__init__(network, trained_tokens)
        self.config = config
        self._layers = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear | PackedLinear) and _is_target(name, config.targets)
        }
        _require_targets(config, self._layers, is_tied=network.config.tied)
        if config.magnitudes and any(isinstance(layer, PackedLinear) for layer in self._layers.values()):
            raise UsageError("DoRA needs its base in float32: it would unpack every row to measure its length")
        self.updates = nn.ModuleDict({_key(name): LowRank(layer, config) for name, layer in self._layers.items()})
        has_rows = EMBEDDING in config.targets
        self.embedding = LowRankRows(network.model.embed_tokens, config) if has_rows else None

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

    def attach(self, network: Network) -> list[Handle]:
        """Let the network compute with the updates; remove the returned handles to take them away."""
        handles: list[Handle] = []
        for name, layer in self._layers.items():
            update = self._update(name)
            if self._computes_in_place_of(layer):
                handles.append(Replaced(layer, self._folded(layer, update)))
            else:
                handles.append(layer.register_forward_hook(self._adding(update)))
        if self.trained_tokens or self.embedding is not None:
            handles += self._attach_embedding(network)
        return handles

    def _attach_embedding(self, network: Network) -> list[Handle]:
        words, head = network.model.embed_tokens, network.lm_head
        if not is_replaced(words) and self._folds(*words.weight.shape):
            folded: list[Handle] = [Replaced(words, lambda ids: nn.functional.embedding(ids, self._table(words)))]
            if network.config.tied:
                folded.append(Replaced(head, lambda x: nn.functional.linear(x, self._table(words))))
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

    def _computes_in_place_of(self, layer: Layer) -> bool:
        if isinstance(layer, PackedLinear):
            return False
        if not is_replaced(layer):
            return self._folds(layer.out_features, layer.in_features)
        if self.config.magnitudes:
            raise UsageError("DoRA cannot be stacked on another adapter", hint="merge the other one first")
        return False

    def _folds(self, rows: int, columns: int) -> bool:
        """Whether a layer's update is folded into its weights for each forward.

        Folding adds the gradient of the full weight, 2 T rows columns operations for T tokens; it spares the products
        beside it, 6 T rank (rows + columns). At equal counts it is about twice as fast, for the products are larger.
        """
        if self.config.magnitudes:
            return True
        return not self.config.dropout and rows * columns <= 6 * self.config.rank * (rows + columns)

    def _folded(self, layer: Layer, update: LowRank) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            weight = update.updated(layer.weight) if self._is_on else layer.weight
            return nn.functional.linear(x, weight, layer.bias)

        return forward

    def _adding(self, update: LowRank) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG001
            return output + update(arguments[0]).to(output.dtype) if self._is_on else output

        return hook

    def named_updates(self) -> Iterator[tuple[str, LowRank]]:
        """The linear layers' names and their updates."""
        return ((name, self._update(name)) for name in self._layers)

    def _update(self, layer: str) -> LowRank:
        return cast(LowRank, self.updates[_key(layer)])

    def _embed(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG002
        if not self._is_on:
            return output
        if self.embedding is not None:
            output = output + self.embedding.rows(arguments[0]).to(output.dtype)
        return self._with_rows(arguments[0], output)

    def _score(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG002
        if self.embedding is not None and self._is_on:
            output = output + self.embedding.scores(arguments[0]).to(output.dtype)
        return self._with_row_scores(arguments[0], output) if self._is_on else output

    @torch.no_grad()
    def merge(self, network: Network, *, weight: float = 1.0) -> None:
        """Add the updates to the network's own weights; see `Attachment`."""
        for name, layer in self._layers_of(network):
            whole = self._update(name).updated(layer.weight)
            layer.weight.copy_(whole if weight == 1.0 else layer.weight.lerp(whole, weight))
        self._merge_embedding(network, weight)

    @torch.no_grad()
    def unmerge(self, network: Network, *, weight: float = 1.0) -> None:
        """Subtract the updates again; see `Attachment`.

        Raises:
            UsageError: DoRA, which overwrites the length of the base's rows.
        """
        if self.config.magnitudes:
            raise UsageError("DoRA cannot be taken out of the weights again", hint="use the base it was trained on")
        for name, layer in self._layers_of(network):
            layer.weight.sub_(self._update(name).delta(), alpha=weight)
        self._merge_embedding(network, -weight)

    def _layers_of(self, network: Network) -> Iterator[tuple[str, nn.Linear]]:
        """The layers that the network has now; of a base in few bits, it has others since it was unpacked."""
        return ((name, cast(nn.Linear, network.get_submodule(name))) for name in self._layers)

    def _merge_embedding(self, network: Network, weight: float) -> None:
        if self.embedding is not None:
            network.model.embed_tokens.weight.add_(self.embedding.delta(), alpha=weight)
        self._add_rows(network, weight)

    @torch.no_grad()
    def shrink(self, share: float) -> None:
        """See `Attachment`.

        Raises:
            UsageError: DoRA, where a share of the way is no adapter of its kind.
        """
        if self.config.magnitudes:
            raise UsageError("DoRA has no points between the base and the result", hint="leave `interpolate` out")
        for _, update in self.named_updates():
            update.up.mul_(share)
        if self.embedding is not None:
            self.embedding.up.mul_(share)
        if self.trained_tokens:
            self.token_rows.mul_(share)

    def record(self) -> dict[str, Any]:
        """See `Attachment`."""
        return {"lora": self.config.model_dump(mode="json"), "trained_tokens": list(self.trained_tokens)}


def _is_target(name: str, targets: tuple[str, ...]) -> bool:
    return name.rsplit(".", 1)[-1] in targets or (ALL in targets and ".layers." in name)


def _require_targets(config: LoraConfig, layers: dict[str, Layer], *, is_tied: bool) -> None:
    names = {EMBEDDING, ALL, *(name.rsplit(".", 1)[-1] for name in layers)}
    unmet = [target for target in config.targets if target not in names]
    if unmet or not layers:
        raise UsageError(
            f"no layer is named {', '.join(unmet) or 'in `targets`'}: nothing there would be trained",
            hint=f"name layers by the last part of their names ({', '.join(ALL_LINEAR)}), or `{ALL}`",
        )
    if is_tied and "lm_head" in names:
        raise UsageError(
            "`lm_head` shares its weights with the embedding in this network, an update of one alone cannot be merged",
            hint="leave `lm_head` out of the targets",
        )


def _key(name: str) -> str:
    """A module dictionary takes no dots."""
    return name.replace(".", "/")
