"""The shape of a network. Default: the Qwen3 shape, which every runner of open models opens."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from chatwright.foundation.config import Config


class RopeScaling(Config):
    """Llama 3's stretching of rotary positions beyond the length first trained on."""

    kind: Literal["llama3"] = "llama3"
    factor: float = Field(gt=0)
    low_frequency_factor: float = Field(gt=0)
    high_frequency_factor: float = Field(gt=0)
    original_context_length: int = Field(ge=1)

    def problems(self) -> Iterator[str]:
        """The band between kept and slowed waves must have a width."""
        if self.high_frequency_factor <= self.low_frequency_factor:
            yield (
                "`high_frequency_factor` must be above `low_frequency_factor`: "
                f"{self.high_frequency_factor} and {self.low_frequency_factor}"
            )


class ModelConfig(Config):
    """A decoder-only transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

    family: Literal["qwen3", "llama"] = "qwen3"  # qwen3 normalises queries and keys, llama does not
    width: int = Field(default=192, ge=8, le=1 << 16)  # of the residual stream
    layers: int = Field(default=6, ge=1, le=1 << 10)
    heads: int = Field(default=6, ge=1, le=1 << 10)  # query heads
    key_heads: int = Field(default=6, ge=1, le=1 << 10)  # key and value heads, each shared by heads / key_heads queries
    head_width: int = Field(default=32, ge=2, le=1 << 10)
    mlp_width: int = Field(default=512, ge=8, le=1 << 20)  # hidden width of SwiGLU
    context_length: int = Field(default=256, ge=2, le=1 << 20)  # tokens
    vocabulary_size: int = Field(default=0, ge=0, le=1 << 21)  # 0: the tokenizer's
    tied: bool = True  # output projection shares the embedding's weights
    rope_base: float = Field(default=10_000.0, gt=0)
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = Field(default=1e-6, gt=0)

    def problems(self) -> Iterator[str]:
        """Heads must share keys evenly, and rotate in pairs."""
        if self.heads % self.key_heads:
            yield f"`heads` must be a multiple of `key_heads`: {self.heads} and {self.key_heads}"
        if self.head_width % 2:
            yield f"`head_width` must be even, rotary positions turn pairs: {self.head_width}"

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised before the rotation."""
        return self.family == "qwen3"

    def num_parameters(self) -> int:
        """Trainable numbers, the shared embedding counted once."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.key_heads)
        norms = 2 * self.width + (2 * self.head_width if self.qk_norm else 0)
        block = attention + 3 * self.width * self.mlp_width + norms
        embeddings = self.vocabulary_size * self.width * (1 if self.tied else 2)
        return embeddings + self.layers * block + self.width

    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token: 6 per matrix weight, plus attention over the context.

        Kaplan et al. 2020 (section 2.1), with causal attention counted at half the context on average.
        """
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.key_heads)
        matrices = self.layers * (attention + 3 * self.width * self.mlp_width) + self.vocabulary_size * self.width
        scores = self.layers * self.heads * self.head_width * self.context_length
        return 6.0 * matrices + 6.0 * scores
