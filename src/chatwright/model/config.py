"""The shape of a network. Default: the Qwen3 shape, which every runner of open models opens."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from chatwright.foundation.config import Config

MAX_LAYERS = 1 << 10
Family = Literal["qwen3", "qwen2", "llama", "mistral", "smollm3", "gpt2"]


class LinearScaling(Config):
    """Positions divided by a factor (Chen et al. 2023, "position interpolation")."""

    kind: Literal["linear"] = "linear"
    factor: float = Field(ge=1)


class Llama3Scaling(Config):
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


class YarnScaling(Config):
    """YaRN (Peng et al. 2023): slow waves interpolated, fast ones kept, a ramp between, and sharper attention."""

    kind: Literal["yarn"] = "yarn"
    factor: float = Field(ge=1)
    original_context_length: int = Field(ge=1)
    fast_turns: float = Field(default=32.0, gt=0)  # waves that turn more often within the original context are kept
    slow_turns: float = Field(default=1.0, gt=0)  # waves that turn less often are interpolated
    attention_factor: float | None = Field(default=None, gt=0)  # None: the paper's, 0.1 ln(factor) + 1
    whole_ramp: bool = True  # the ramp begins and ends at whole dimensions, as in the authors' code

    def problems(self) -> Iterator[str]:
        """The ramp must lead from fast to slow."""
        if self.fast_turns <= self.slow_turns:
            yield f"`fast_turns` must be above `slow_turns`: {self.fast_turns} and {self.slow_turns}"


RopeScaling = Annotated[LinearScaling | Llama3Scaling | YarnScaling, Field(discriminator="kind")]


class ModelConfig(Config):
    """A decoder-only transformer. All families but GPT-2: RMSNorm, rotary positions, SwiGLU."""

    family: Family = "qwen3"  # qwen3 normalises queries and keys, the others do not
    width: int = Field(default=192, ge=8, le=1 << 16)  # of the residual stream
    layers: int = Field(default=6, ge=1, le=MAX_LAYERS)
    heads: int = Field(default=6, ge=1, le=1 << 10)  # query heads
    key_heads: int = Field(default=6, ge=1, le=1 << 10)  # key and value heads, each shared by heads / key_heads queries
    head_width: int = Field(default=32, ge=2, le=1 << 10)
    mlp_width: int = Field(default=512, ge=8, le=1 << 20)  # hidden width of the MLP
    context_length: int = Field(default=256, ge=2, le=1 << 20)  # tokens
    vocabulary_size: int = Field(default=0, ge=0, le=1 << 21)  # 0: the tokenizer's
    tied: bool = True  # output projection shares the embedding's weights
    attention_bias: bool = False  # on all four projections; qwen2 and gpt2 have theirs anyway
    mlp_bias: bool = False
    rope_base: float = Field(default=10_000.0, gt=0)
    rope_scaling: RopeScaling | None = None
    unrotated_layers: tuple[int, ...] = ()  # layers without positions (smollm3)
    sliding_window: int | None = Field(default=None, ge=1, le=1 << 20)  # tokens that a sliding layer reads, itself too
    sliding_layers: tuple[int, ...] = ()  # layers that read no further back than the window
    norm_epsilon: float = Field(default=1e-6, gt=0)

    def problems(self) -> Iterator[str]:
        """Heads must share keys evenly and rotate in pairs; no setting may be without effect."""
        if self.heads % self.key_heads:
            yield f"`heads` must be a multiple of `key_heads`: {self.heads} and {self.key_heads}"
        if self.head_width % 2:
            yield f"`head_width` must be even, rotary positions turn pairs: {self.head_width}"
        yield from self._layer_problems()
        if self.attention_bias and self.family not in ("llama", "qwen3", "smollm3"):
            yield f"`attention_bias` has no meaning in the family `{self.family}`"
        if self.mlp_bias and self.family not in ("llama", "smollm3"):
            yield f"`mlp_bias` has no meaning in the family `{self.family}`"
        if self.family == "gpt2":
            yield from self._gpt2_problems()

    def _layer_problems(self) -> Iterator[str]:
        for name, layers in (("unrotated_layers", self.unrotated_layers), ("sliding_layers", self.sliding_layers)):
            if any(not 0 <= layer < self.layers for layer in layers) or list(layers) != sorted(set(layers)):
                yield f"`{name}` must name layers from 0 to {self.layers - 1}, in order, each once: {list(layers)}"
        if bool(self.sliding_layers) != (self.sliding_window is not None):
            yield "`sliding_window` and `sliding_layers` go together"
        if self.sliding_layers and self.family in ("llama", "gpt2"):
            yield f"`sliding_layers` have no meaning in the family `{self.family}`"
        if self.family == "mistral" and len(self.sliding_layers) not in (0, self.layers):
            yield "in the family `mistral` all layers slide or none"
        if self.unrotated_layers and self.family != "smollm3":
            yield f"`unrotated_layers` have no meaning in the family `{self.family}`"

    def _gpt2_problems(self) -> Iterator[str]:
        if self.key_heads != self.heads:
            yield f"in the family `gpt2` each head has its own keys: {self.heads} heads, {self.key_heads} key heads"
        if self.heads * self.head_width != self.width:
            yield f"in the family `gpt2` `heads` times `head_width` is `width`: {self.heads * self.head_width}"
        if self.rope_scaling is not None:
            yield "`rope_scaling` has no meaning in the family `gpt2`, whose positions are learned"

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised before the rotation."""
        return self.family == "qwen3"

    @property
    def is_gpt2(self) -> bool:
        """Learned positions, LayerNorm with biases, an MLP without a gate."""
        return self.family == "gpt2"

    @property
    def has_input_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.attention_bias or self.family in ("qwen2", "gpt2")

    @property
    def has_output_bias(self) -> bool:
        """Whether attention's output projection has a bias."""
        return self.attention_bias or self.is_gpt2

    @property
    def has_mlp_bias(self) -> bool:
        """Whether the MLP's projections have biases."""
        return self.mlp_bias or self.is_gpt2

    def block_matrices(self) -> int:
        """Numbers in the matrices of one block."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.key_heads)
        return attention + (2 if self.is_gpt2 else 3) * self.width * self.mlp_width

    def num_parameters(self) -> int:
        """Trainable numbers, the shared embedding counted once."""
        norm = (2 if self.is_gpt2 else 1) * self.width
        biases = (self.heads + 2 * self.key_heads) * self.head_width if self.has_input_bias else 0
        biases += self.width if self.has_output_bias else 0
        biases += self.width + (1 if self.is_gpt2 else 2) * self.mlp_width if self.has_mlp_bias else 0
        norms = 2 * norm + (2 * self.head_width if self.qk_norm else 0)
        embeddings = self.vocabulary_size * self.width * (1 if self.tied else 2)
        positions = self.context_length * self.width if self.is_gpt2 else 0
        return embeddings + positions + self.layers * (self.block_matrices() + biases + norms) + norm

    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token: 6 per matrix weight, plus attention over the context.

        Kaplan et al. 2020 (section 2.1), with causal attention counted at half the context on average.
        """
        matrices = self.layers * self.block_matrices() + self.vocabulary_size * self.width
        scores = self.layers * self.heads * self.head_width * self.context_length
        return 6.0 * matrices + 6.0 * scores
