"""The network: a decoder-only transformer whose parameters carry Hugging Face's names.

Not here: files (directory.py), sampling (generation.py), low-rank updates (adapter.py).
Legend of shapes: B batch, T time, S cached time, D width, H query heads, G key heads, K head width, R = K / 2,
V vocabulary.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from chatwright.model.cache import LayerCache, NetworkCache
from chatwright.model.config import ModelConfig, RopeScaling

INITIAL_STD = 0.02


class Angles(NamedTuple):
    """Cosine and sine of the positions' angles."""

    cosine_BTR: Float[Tensor, "B T R"]  # noqa: N815 - the shape suffix of this file's legend
    sine_BTR: Float[Tensor, "B T R"]  # noqa: N815


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021), halves rotated as in Hugging Face's Llama rather than neighbours."""

    cosine_SR: Tensor  # noqa: N815
    sine_SR: Tensor  # noqa: N815

    def __init__(self, config: ModelConfig):
        super().__init__()
        half_R = torch.arange(0, config.head_width, 2, dtype=torch.float32)
        frequencies_R = config.rope_base ** (-half_R / config.head_width)
        if config.rope_scaling is not None:
            frequencies_R = _scaled(frequencies_R, config.rope_scaling)
        angles = torch.outer(torch.arange(config.context_length, dtype=torch.float32), frequencies_R)
        self.register_buffer("cosine_SR", angles.cos(), persistent=False)
        self.register_buffer("sine_SR", angles.sin(), persistent=False)

    def forward(self, positions_BT: Int[Tensor, "B T"], dtype: torch.dtype) -> Angles:
        """Cosine and sine of each position's angles."""
        return Angles(self.cosine_SR[positions_BT].to(dtype), self.sine_SR[positions_BT].to(dtype))


def _scaled(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1's rule: long waves are slowed by `factor`, short ones kept, those between blended."""
    wavelength = 2 * math.pi / frequencies
    longest = scaling.original_context_length / scaling.low_frequency_factor
    shortest = scaling.original_context_length / scaling.high_frequency_factor
    blend = (scaling.original_context_length / wavelength - scaling.low_frequency_factor) / (
        scaling.high_frequency_factor - scaling.low_frequency_factor
    )
    slow = frequencies / scaling.factor
    between = (1 - blend) * slow + blend * frequencies
    return torch.where(wavelength > longest, slow, torch.where(wavelength < shortest, frequencies, between))


def rotate(x_BHTK: Tensor, cosine_BTR: Tensor, sine_BTR: Tensor) -> Tensor:
    """Turn each pair (i, i + R), R = K / 2, by its position's angle.

    `unbind` and not `chunk`: the gradient of a slice fills a tensor with zeros first, that of `unbind` does not.
    """
    first, second = x_BHTK.view(*x_BHTK.shape[:-1], 2, -1).unbind(-2)
    cosine, sine = cosine_BTR.unsqueeze(1), sine_BTR.unsqueeze(1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


class Norm(nn.Module):
    """Root-mean-square normalisation (Zhang and Sennrich 2019), computed in float32 whatever comes in."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self._epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`, unit root mean square times the weight."""
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self._epsilon).to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention (Ainslie et al. 2023) with rotary positions.

    In the Qwen3 family queries and keys are normalised before the rotation (Dehghani et al. 2023): it bounds logits.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self._config = config
        inner, shared = config.heads * config.head_width, config.key_heads * config.head_width
        self.q_proj = nn.Linear(config.width, inner, bias=False)
        self.k_proj = nn.Linear(config.width, shared, bias=False)
        self.v_proj = nn.Linear(config.width, shared, bias=False)
        self.o_proj = nn.Linear(inner, config.width, bias=False)
        if config.qk_norm:
            self.q_norm = Norm(config.head_width, config.norm_epsilon)
            self.k_norm = Norm(config.head_width, config.norm_epsilon)

    def forward(
        self,
        x_BTD: Float[Tensor, "B T D"],
        angles: Angles,
        cache: LayerCache | None = None,
        mask_B1TT: Tensor | None = None,  # noqa: N803 - the shape suffix of this file's legend
    ) -> Float[Tensor, "B T D"]:
        """Each position reads itself and what came before, in `cache` too, or what a mask of its own allows."""
        batch, time, _ = x_BTD.shape
        shape = (batch, time, -1, self._config.head_width)
        q_BHTK = self.q_proj(x_BTD).view(shape)
        k_BGTK = self.k_proj(x_BTD).view(shape)
        v_BGTK = self.v_proj(x_BTD).view(shape).transpose(1, 2)
        if self._config.qk_norm:
            q_BHTK, k_BGTK = self.q_norm(q_BHTK), self.k_norm(k_BGTK)
        q_BHTK = rotate(q_BHTK.transpose(1, 2), *angles)
        k_BGTK = rotate(k_BGTK.transpose(1, 2), *angles)
        mask = mask_B1TT
        if cache is not None:
            k_BGTK, v_BGTK, mask = cache.append(k_BGTK, v_BGTK)
        y_BHTK = F.scaled_dot_product_attention(
            q_BHTK,
            k_BGTK.to(q_BHTK.dtype),
            v_BGTK.to(q_BHTK.dtype),
            attn_mask=mask,
            is_causal=mask is None and time > 1,
            enable_gqa=self._config.heads != self._config.key_heads,
        )
        return self.o_proj(y_BHTK.transpose(1, 2).reshape(batch, time, -1))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """SwiGLU (Shazeer 2020): a gate times a value, projected back."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down_proj = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Position by position."""
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream after normalising its input."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.input_layernorm = Norm(config.width, config.norm_epsilon)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config.width, config.norm_epsilon)
        self.mlp = Mlp(config)

    def forward(
        self,
        x_BTD: Float[Tensor, "B T D"],
        angles: Angles,
        cache: LayerCache | None = None,
        mask_B1TT: Tensor | None = None,
    ) -> Float[Tensor, "B T D"]:
        """One layer."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), angles, cache, mask_B1TT)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Embedding, blocks and the last norm: everything but the output projection."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary_size, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config.width, config.norm_epsilon)


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


class Network(nn.Module):
    """A GPT: token ids in, a score for each possible next token out."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.width, config.vocabulary_size, bias=False)
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        self._rotary = Rotary(config)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the first weights: normal, with projections into the residual stream at zero.

        Zero output projections let every block begin as the identity (Zhang et al. 2019, "Fixup"; kept by
        modded-nanogpt's ablations), so depth costs nothing at the start.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.ones_(parameter)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=INITIAL_STD, generator=generator)

    def hidden(
        self,
        ids_BT: Int[Tensor, "B T"],
        cache: NetworkCache | None = None,
        documents_BT: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The normalised state at each position. With a cache, positions continue each row's own length.

        Args:
            ids_BT: tokens.
            cache: what the rows have read before.
            documents_BT: which document of its row each position belongs to, where several share one. Each is read as
                if it stood alone: positions count from its start, and no other is seen. Not with a cache.
        """
        batch, time = ids_BT.shape
        positions_BT = torch.arange(time, device=ids_BT.device).expand(batch, time)
        mask_B1TT = None
        if cache is not None:
            positions_BT = positions_BT + cache.lengths_B.unsqueeze(1)
        elif documents_BT is not None:
            positions_BT = positions_BT - _starts(documents_BT)
            mask_B1TT = _same_document(documents_BT)
        x_BTD = self.model.embed_tokens(ids_BT)
        angles = self._rotary(positions_BT, x_BTD.dtype)
        for number, block in enumerate(self.model.layers):
            x_BTD = block(x_BTD, angles, None if cache is None else cache.layer(number), mask_B1TT)
        if cache is not None:
            cache.advance(time)
        return self.model.norm(x_BTD)  # type: ignore[no-any-return]

    def forward(self, ids_BT: Int[Tensor, "B T"], cache: NetworkCache | None = None) -> Float[Tensor, "B T V"]:
        """Scores of the next token at each position, in float32."""
        return self.lm_head(self.hidden(ids_BT, cache)).float()  # type: ignore[no-any-return]
