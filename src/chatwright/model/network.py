"""The network: a decoder-only transformer whose parameters carry Hugging Face's names.

Inside, all families have the names of Llama's parameters; how each family's files call them is families/layout.py's.
Not here: files (directory.py), sampling (generation.py), low-rank updates (adapter.py).
Legend of shapes: B batch, T time, S slots that are read, D width, H query heads, G key heads, K head width, R = K / 2,
V vocabulary.
"""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from chatwright.model.config import ModelConfig
from chatwright.model.pointwise import is_worthwhile, root_mean_square_norm
from chatwright.model.rotary import Angles, Rotary, rotate

INITIAL_STD = 0.02
_SHORT = 512  # positions: the way back through shorter rows is faster in float32 than in bfloat16 on a CPU, to a third


class Norm(nn.Module):
    """Root-mean-square normalisation (Zhang and Sennrich 2019), computed in float32 whatever comes in."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self._epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`, unit root mean square times the weight."""
        if is_worthwhile(x):
            return root_mean_square_norm(x, self.weight, self._epsilon)
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self._epsilon).to(x.dtype)


class CentredNorm(nn.Module):
    """Layer normalisation with a bias (Ba et al. 2016), as in GPT-2, computed in float32."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self._epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`, mean zero and variance one, times the weight plus the bias."""
        return F.layer_norm(x.float(), (x.shape[-1],), self.weight.float(), self.bias.float(), self._epsilon).to(
            x.dtype
        )


def _norm(config: ModelConfig) -> nn.Module:
    return (CentredNorm if config.is_gpt2 else Norm)(config.width, config.norm_epsilon)


def within_window(
    mask: Bool[Tensor, "..."] | None, readers_BT: Int[Tensor, "B T"], *, slots: int, window: int
) -> Bool[Tensor, "..."] | None:
    """Narrow a mask to the last `window` slots, the reader's own included.

    A mask of None means plain causality, which the result then says too.
    """
    if slots <= window:
        return mask
    slots_S = torch.arange(slots, device=readers_BT.device)
    reader_BT1 = readers_BT.unsqueeze(-1)
    near = (slots_S > reader_BT1 - window).unsqueeze(1)
    return near & ((slots_S <= reader_BT1).unsqueeze(1) if mask is None else mask)


class Attention(nn.Module):
    """Causal grouped-query attention (Ainslie et al. 2023) with rotary positions.

    In the Qwen3 family queries and keys are normalised before the rotation (Dehghani et al. 2023): it bounds logits.
    """

    def __init__(self, config: ModelConfig, number: int):
        super().__init__()
        self._config = config
        self._is_rotated = not config.is_gpt2 and number not in config.unrotated_layers
        self._window = config.sliding_window if number in config.sliding_layers else None
        inner, shared = config.heads * config.head_width, config.key_heads * config.head_width
        self.q_proj = nn.Linear(config.width, inner, bias=config.has_input_bias)
        self.k_proj = nn.Linear(config.width, shared, bias=config.has_input_bias)
        self.v_proj = nn.Linear(config.width, shared, bias=config.has_input_bias)
        self.o_proj = nn.Linear(inner, config.width, bias=config.has_output_bias)
        if config.qk_norm:
            self.q_norm = Norm(config.head_width, config.norm_epsilon)
            self.k_norm = Norm(config.head_width, config.norm_epsilon)

    def forward(
        self,
        x_BTD: Float[Tensor, "B T D"],
        angles: Angles,
        mask_B1TT: Tensor | None = None,  # noqa: N803 - the shape suffix of this file's legend
    ) -> Float[Tensor, "B T D"]:
        """Each position reads itself and what came before, or what a mask of its own allows."""
        batch, time, _ = x_BTD.shape
        shape = (batch, time, -1, self._config.head_width)
        q_BHTK = self.q_proj(x_BTD).view(shape)
        k_BGTK = self.k_proj(x_BTD).view(shape)
        v_BGTK = self.v_proj(x_BTD).view(shape).transpose(1, 2)
        if self._config.qk_norm:
            q_BHTK, k_BGTK = self.q_norm(q_BHTK), self.k_norm(k_BGTK)
        q_BHTK, k_BGTK = q_BHTK.transpose(1, 2), k_BGTK.transpose(1, 2)
        if self._is_rotated:
            q_BHTK, k_BGTK = rotate(q_BHTK, angles), rotate(k_BGTK, angles)
        mask = mask_B1TT
        if self._window is not None:
            # Several documents may share a row: places count from the row's start, not positions.
            readers_1T = torch.arange(time, device=x_BTD.device)[None]
            mask = within_window(mask, readers_1T, slots=time, window=self._window)
        is_short = q_BHTK.device.type == "cpu" and time < _SHORT and torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", enabled=False) if is_short else nullcontext():
            dtype = torch.float32 if is_short else q_BHTK.dtype
            y_BHTK = F.scaled_dot_product_attention(
                q_BHTK.to(dtype),
                k_BGTK.to(dtype),
                v_BGTK.to(dtype),
                attn_mask=mask,
                is_causal=mask is None and time > 1,
                enable_gqa=self._config.heads != self._config.key_heads,
            )
        return self.o_proj(y_BHTK.transpose(1, 2).reshape(batch, time, -1))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """SwiGLU (Shazeer 2020): a gate times a value, projected back."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_width, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.width, config.mlp_width, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.mlp_width, config.width, bias=config.mlp_bias)

    def forward(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Position by position."""
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))  # type: ignore[no-any-return]


class PlainMlp(nn.Module):
    """GPT-2's MLP: up, GELU in its tanh form (Hendrycks and Gimpel 2016), down; both with biases."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.width, config.mlp_width)
        self.down_proj = nn.Linear(config.mlp_width, config.width)

    def forward(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Position by position."""
        return self.down_proj(F.gelu(self.up_proj(x_BTD), approximate="tanh"))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream after normalising its input."""

    def __init__(self, config: ModelConfig, number: int):
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attn = Attention(config, number)
        self.post_attention_layernorm = _norm(config)
        self.mlp = PlainMlp(config) if config.is_gpt2 else Mlp(config)
        self.is_recomputed = False  # keep only the input for the backward pass, and compute the rest again there

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], angles: Angles, mask_B1TT: Tensor | None = None
    ) -> Float[Tensor, "B T D"]:
        """One layer."""
        if self.is_recomputed and self.training and torch.is_grad_enabled():
            return checkpoint(self._layer, x_BTD, angles, mask_B1TT, use_reentrant=False)  # type: ignore[no-any-return]
        return self._layer(x_BTD, angles, mask_B1TT)

    def _layer(self, x_BTD: Tensor, angles: Angles, mask_B1TT: Tensor | None) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), angles, mask_B1TT)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Embedding, blocks and the last norm: everything but the output projection."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary_size, config.width)
        if config.is_gpt2:
            self.embed_positions = nn.Embedding(config.context_length, config.width)
        self.layers = nn.ModuleList(Block(config, number) for number in range(config.layers))
        self.norm = _norm(config)


def _starts(documents_BT: Tensor) -> Tensor:
    """For each position, where its document begins in its row."""
    index_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    begins_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    begins_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return torch.where(begins_BT, index_T, 0).cummax(1).values


def _same_document(documents_BT: Tensor) -> Tensor:
    """Who may read whom: earlier positions of the same document."""
    same_BTT = documents_BT.unsqueeze(2) == documents_BT.unsqueeze(1)
    return same_BTT.tril().unsqueeze(1)


def _draw(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Fill a parameter of this name with its first values."""
    if name.endswith(".bias"):
        return nn.init.zeros_(tensor)
    if tensor.ndim == 1:
        return nn.init.ones_(tensor)
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return nn.init.zeros_(tensor)
    return nn.init.normal_(tensor, std=INITIAL_STD, generator=generator)


class Network(nn.Module):
    """A GPT: token ids in, a score for each possible next token out."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.width, config.vocabulary_size, bias=False)
        self._tie()
        self._rotary = Rotary(config)

    @classmethod
    def without_memory(cls, config: ModelConfig) -> "Network":
        """A network of shapes alone: it is to take memory, and to be filled, before it computes."""
        with torch.device("meta"):
            return cls(config)

    @classmethod
    def without_values(cls, config: ModelConfig, device: torch.device | str) -> "Network":
        """A network whose memory is taken and whose weights are whatever stood there: to be filled from a file."""
        network = cls.without_memory(config)
        network.take_memory(device)
        return network

    def take_memory(self, device: torch.device | str) -> None:
        """Memory for a network of shapes, in place; of one in shards for this rank's part alone."""
        self.to_empty(device=device)
        self._tie()  # `to_empty` gave each side memory of its own
        self._rotary.settle("cpu")  # every device then has the same angles, to the bit
        self._rotary.to(device)

    def _tie(self) -> None:
        if self.config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def recompute_blocks(self, *, is_on: bool) -> None:
        """Activation checkpointing by block (Chen et al. 2016): a third more arithmetic, memory of one block's inside.

        The random stream is put back for the second pass, so dropout draws the same.
        """
        for block in self.model.layers:
            block.is_recomputed = is_on  # type: ignore[assignment]

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the first weights: normal, with projections into the residual stream at zero.

        Zero output projections let every block begin as the identity (Zhang et al. 2019, "Fixup"; kept by
        modded-nanogpt's ablations), so depth costs nothing at the start.
        """
        for name, parameter in self.named_parameters():
            _draw(name, parameter, generator)

    def first_values(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """What `initialise` draws, to the bit, by name: whole and one at a time, for a network without memory."""
        for name, parameter in self.named_parameters():
            yield name, _draw(name, torch.empty(parameter.shape, dtype=parameter.dtype), generator)

    def hidden(
        self, ids_BT: Int[Tensor, "B T"], documents_BT: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """The normalised state at each position.

        Args:
            ids_BT: tokens.
            documents_BT: which document of its row each position belongs to, where several share one. Each is read as
                if it stood alone: positions count from its start, and no other is seen.
        """
        batch, time = ids_BT.shape
        positions_BT = torch.arange(time, device=ids_BT.device).expand(batch, time)
        mask_B1TT = None
        if documents_BT is not None:
            positions_BT = positions_BT - _starts(documents_BT)
            mask_B1TT = _same_document(documents_BT)
        x_BTD = self.model.embed_tokens(ids_BT)
        if self.config.is_gpt2:
            x_BTD = x_BTD + self.model.embed_positions(positions_BT)
        if torch.is_autocast_enabled(x_BTD.device.type):
            x_BTD = x_BTD.float()  # the residual stream, as of whole weights: shards are gathered in autocast's type
        angles = self._rotary(positions_BT, x_BTD.dtype)
        for block in self.model.layers:
            x_BTD = block(x_BTD, angles, mask_B1TT)
        return self.model.norm(x_BTD)  # type: ignore[no-any-return]

    def forward(self, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Scores of the next token at each position, in float32."""
        return self.lm_head(self.hidden(ids_BT)).float()  # type: ignore[no-any-return]
