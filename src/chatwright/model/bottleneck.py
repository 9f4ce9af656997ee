"""Bottleneck adapters: a small layer beside each block's MLP, of the same make, which folds into it as more neurons.

Adapters of Houlsby et al. (2019) and Pfeiffer et al. (2021) stand behind a sublayer and read its output; no known
architecture's file can say that, so such a model could be opened by no other program. He et al. (2022, "Towards a
unified view of parameter-efficient transfer learning", section 4.6) put the bottleneck beside the MLP instead and
found it better. Here it is a gated layer as the MLP's own, so `merge` leaves a plain network with a wider MLP.

Legend: D width, M neurons of the MLP, W neurons of the bottleneck.
"""

import math
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from chatwright.foundation.config import Config
from chatwright.foundation.errors import UsageError
from chatwright.model.attachment import Attachment, Handle
from chatwright.model.network import Network


class BottleneckConfig(Config):
    """Size of the bottleneck adapters."""

    width: int = Field(default=32, ge=1)  # neurons beside each MLP; multiples of 32 are what quantised formats like


class Bottleneck(nn.Module):
    """One small MLP: gated where the network's own is."""

    def __init__(self, *, outer: int, width: int, is_gated: bool):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(width, outer)) if is_gated else None
        self.up = nn.Parameter(torch.zeros(width, outer))
        self.down = nn.Parameter(torch.zeros(outer, width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """What is added to the MLP's output."""
        up_BTW = F.linear(x_BTD, self.up)
        hidden_BTW = (
            F.gelu(up_BTW, approximate="tanh") if self.gate is None else F.silu(F.linear(x_BTD, self.gate)) * up_BTW
        )
        return F.linear(hidden_BTW, self.down)


class Bottlenecks(Attachment):
    """A bottleneck beside every block's MLP.

    Args:
        network: the frozen base.
        config: size.
        trained_tokens: ids whose embedding rows are trained too.
    """

    kind = "bottleneck"

    def __init__(self, network: Network, config: BottleneckConfig, *, trained_tokens: tuple[int, ...] = ()):
        super().__init__(network, trained_tokens)
        shape = network.config
        self.config = config
        self.layers = nn.ModuleList(
            Bottleneck(outer=shape.width, width=config.width, is_gated=not shape.is_gpt2) for _ in range(shape.layers)
        )

    def initialise(self, generator: torch.Generator) -> None:
        """What reads is drawn as in a linear layer, what writes begins at zero: the first forward is the base's."""
        for layer in self._bottlenecks():
            bound = 1 / math.sqrt(layer.up.shape[1])
            for part in (layer.gate, layer.up):
                if part is not None:
                    nn.init.uniform_(part, -bound, bound, generator=generator)

    def attach(self, network: Network) -> list[Handle]:
        """See `Attachment`."""
        handles: list[Handle] = [
            cast(Any, block).mlp.register_forward_hook(self._beside(layer))
            for block, layer in zip(network.model.layers, self._bottlenecks(), strict=True)
        ]
        if self.trained_tokens:
            handles.append(network.model.embed_tokens.register_forward_hook(self._embed))
            if network.config.tied:
                handles.append(network.lm_head.register_forward_hook(self._score))
        return handles

    def _beside(self, layer: Bottleneck) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG001
            return output + layer(arguments[0]).to(output.dtype) if self._is_on else output

        return hook

    def _embed(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG002
        return self._with_rows(arguments[0], output) if self._is_on else output

    def _score(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG002
        return self._with_row_scores(arguments[0], output) if self._is_on else output

    def _bottlenecks(self) -> list[Bottleneck]:
        return [cast(Bottleneck, layer) for layer in self.layers]

    @torch.no_grad()
    def merge(self, network: Network, *, weight: float = 1.0) -> None:
        """Widen every MLP by the bottleneck's neurons; see `Attachment`."""
        for block, layer in zip(network.model.layers, self._bottlenecks(), strict=True):
            mlp = cast(Any, block).mlp
            if layer.gate is not None:
                mlp.gate_proj = _with_rows(mlp.gate_proj, layer.gate)
            mlp.up_proj = _with_rows(mlp.up_proj, layer.up)
            mlp.down_proj = _with_columns(mlp.down_proj, layer.down * weight)
        self._add_rows(network, weight)
        network.config = network.config.model_copy(update={"mlp_width": network.config.mlp_width + self.config.width})

    @torch.no_grad()
    def unmerge(self, network: Network, *, weight: float = 1.0) -> None:
        """Take the last neurons away again: what is left are the base's bits, but for trained embedding rows."""
        kept = network.config.mlp_width - self.config.width
        if kept < 1:
            raise UsageError(
                f"no adapter of {self.config.width} neurons is merged here: the MLP has {network.config.mlp_width}"
            )
        for block in network.model.layers:
            mlp = cast(Any, block).mlp
            if hasattr(mlp, "gate_proj"):
                mlp.gate_proj = _rebuilt(mlp.gate_proj, mlp.gate_proj.weight[:kept], rows=kept)
            mlp.up_proj = _rebuilt(mlp.up_proj, mlp.up_proj.weight[:kept], rows=kept)
            mlp.down_proj = _rebuilt(mlp.down_proj, mlp.down_proj.weight[:, :kept])
        self._add_rows(network, -weight)
        network.config = network.config.model_copy(update={"mlp_width": kept})

    @torch.no_grad()
    def shrink(self, share: float) -> None:
        """See `Attachment`."""
        for layer in self._bottlenecks():
            layer.down.mul_(share)
        if self.trained_tokens:
            self.token_rows.mul_(share)

    def record(self) -> dict[str, Any]:
        """See `Attachment`."""
        return {"bottleneck": self.config.model_dump(mode="json"), "trained_tokens": list(self.trained_tokens)}


def _with_rows(layer: nn.Linear, rows_WD: Tensor) -> nn.Linear:
    """A layer with more outputs; their biases, where the layer has any, are zero."""
    wider = _rebuilt(layer, torch.cat([layer.weight, rows_WD.to(layer.weight)]))
    if layer.bias is not None:
        wider.bias = nn.Parameter(torch.cat([layer.bias, layer.bias.new_zeros(len(rows_WD))]))
    return wider


def _with_columns(layer: nn.Linear, columns_DW: Tensor) -> nn.Linear:
    return _rebuilt(layer, torch.cat([layer.weight, columns_DW.to(layer.weight)], dim=1))


def _rebuilt(layer: nn.Linear, weight: Tensor, *, rows: int | None = None) -> nn.Linear:
    """A linear layer of other weights; its bias is the old one, or the first of it."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach().clone(), requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.detach()[:rows].clone())
    return made
