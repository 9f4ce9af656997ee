"""Rotary positions (Su et al. 2021) and the ways in which open models stretch them to longer texts.

Legend: B batch, T time, S positions of the table, H heads, K head width, R = K / 2.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chatwright.model.config import LinearScaling, Llama3Scaling, ModelConfig, YarnScaling
from chatwright.model.pointwise import is_worthwhile, rotation


class Angles(NamedTuple):
    """Cosine and sine of the positions' angles."""

    cosine_BTR: Float[Tensor, "B T R"]  # noqa: N815 - the shape suffix of this file's legend
    sine_BTR: Float[Tensor, "B T R"]  # noqa: N815


class Rotary(nn.Module):
    """The angles of all positions, halves rotated as in Hugging Face's Llama rather than neighbours."""

    cosine_SR: Tensor  # noqa: N815
    sine_SR: Tensor  # noqa: N815

    def __init__(self, config: ModelConfig):
        super().__init__()
        self._config = config
        self.settle(torch.empty(0).device)

    def settle(self, device: torch.device | str) -> None:
        """Compute the table on a device; needed once more where the network was built without memory."""
        config = self._config
        frequencies_R = frequencies(config).to(device)
        scale = attention_scale(config)
        positions_S = torch.arange(config.context_length, dtype=torch.float32, device=device)
        angles = torch.outer(positions_S, frequencies_R)
        cosine, sine = angles.cos(), angles.sin()
        if scale != 1.0:
            cosine, sine = cosine * scale, sine * scale
        self.register_buffer("cosine_SR", cosine, persistent=False)
        self.register_buffer("sine_SR", sine, persistent=False)

    def forward(self, positions_BT: Int[Tensor, "B T"], dtype: torch.dtype) -> Angles:
        """Cosine and sine of each position's angles."""
        return Angles(self.cosine_SR[positions_BT].to(dtype), self.sine_SR[positions_BT].to(dtype))


def frequencies(config: ModelConfig) -> Float[Tensor, "R"]:
    """Radians per position of each pair, stretched as the configuration says."""
    plain_R = _plain(config)
    scaling = config.rope_scaling
    if isinstance(scaling, LinearScaling):
        return plain_R / scaling.factor
    if isinstance(scaling, Llama3Scaling):
        return _llama3(plain_R, scaling)
    if isinstance(scaling, YarnScaling):
        return _yarn(plain_R, scaling, base=config.rope_base)
    return plain_R


def attention_scale(config: ModelConfig) -> float:
    """What cosine and sine are multiplied by: YaRN's sharper attention (equation 22, half of it on each side)."""
    scaling = config.rope_scaling
    if not isinstance(scaling, YarnScaling):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0


def llama3_divisors(config: ModelConfig) -> Float[Tensor, "R"]:
    """By how much each pair's frequency is divided: what GGUF files carry as `rope_freqs.weight`."""
    return _plain(config) / frequencies(config)


def _plain(config: ModelConfig) -> Tensor:
    """In transformers' order of operations: at position 100,000 another rounding would be seen in the logits."""
    return 1.0 / config.rope_base ** (torch.arange(0, config.head_width, 2, dtype=torch.float32) / config.head_width)


def _llama3(plain_R: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Llama 3.1's rule: long waves are slowed by `factor`, short ones kept, those between blended."""
    wavelength = 2 * math.pi / plain_R
    longest = scaling.original_context_length / scaling.low_frequency_factor
    shortest = scaling.original_context_length / scaling.high_frequency_factor
    blend = (scaling.original_context_length / wavelength - scaling.low_frequency_factor) / (
        scaling.high_frequency_factor - scaling.low_frequency_factor
    )
    slow = plain_R / scaling.factor
    between = (1 - blend) * slow + blend * plain_R
    return torch.where(wavelength > longest, slow, torch.where(wavelength < shortest, plain_R, between))


def _yarn(plain_R: Tensor, scaling: YarnScaling, *, base: float) -> Tensor:
    """YaRN's equations 17 to 20: a ramp over the pairs, placed by how often each turns in the original context."""
    width = 2 * len(plain_R)

    def pair(turns: float) -> float:
        """The (fractional) pair that turns so often within the original context."""
        return width * math.log(scaling.original_context_length / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = pair(scaling.fast_turns), pair(scaling.slow_turns)
    if scaling.whole_ramp:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    if first == last:
        last += 0.001  # a step instead of a ramp
    slowed_R = ((torch.arange(len(plain_R), dtype=torch.float32) - first) / (last - first)).clamp(0, 1)
    return plain_R / scaling.factor * slowed_R + plain_R * (1 - slowed_R)


def rotate(x_BHTK: Tensor, angles: Angles) -> Tensor:
    """Turn each pair (i, i + R), R = K / 2, by its position's angle.

    `unbind` and not `chunk`: the gradient of a slice fills a tensor with zeros first, that of `unbind` does not.
    """
    cosine, sine = angles.cosine_BTR.unsqueeze(1), angles.sine_BTR.unsqueeze(1)
    if is_worthwhile(x_BHTK):
        return rotation(x_BHTK, cosine, sine)
    first, second = x_BHTK.view(*x_BHTK.shape[:-1], 2, -1).unbind(-2)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
