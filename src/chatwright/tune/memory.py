"""How much memory a fine-tune will take, from its shape alone: told before it begins, checked by bench/finetune_memory.

Counted are what must be there at once when the backward pass begins. It is a rule for planning, not a bound.
"""

from typing import NamedTuple

from chatwright.model.config import ModelConfig
from chatwright.model.quantised import Numbers, weight_bytes

_FLOAT = 4
_COPIES = 4  # of a trained number: itself, its gradient, and AdamW's two moments
_SCORES = 3  # tables of scores at once: the logarithms, and two gradients
_RUNTIME_BYTES = 400 << 20  # Python, PyTorch and the libraries around it, measured once


class Foretold(NamedTuple):
    """Bytes by what takes them."""

    weights: int  # frozen, as they are held, and where one is unpacked
    trained: int  # trained numbers, gradients, moments
    activations: int  # kept for the backward pass, of one micro-batch
    scores: int  # of its targets
    runtime: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def foretold(config: ModelConfig, *, numbers: Numbers, trained: int, is_beside: bool, tokens: int) -> Foretold:
    """What a fine-tune takes.

    Args:
        config: of the base.
        numbers: how the base's matrices are held.
        trained: numbers that are trained.
        is_beside: whether they stand beside the base's, or are among them.
        tokens: of a micro-batch.
    """
    weights = weight_bytes(config, numbers) - (0 if is_beside else _FLOAT * trained)
    if numbers != "float32":
        weights += _FLOAT * config.width * max(config.mlp_width, config.heads * config.head_width)
    return Foretold(
        weights=weights,
        trained=_COPIES * _FLOAT * trained,
        activations=_FLOAT * tokens * config.layers * _kept_of_a_token(config),
        scores=_SCORES * _FLOAT * tokens * config.vocabulary_size,
        runtime=_RUNTIME_BYTES,
    )


def _kept_of_a_token(config: ModelConfig) -> int:
    """Numbers that one block keeps of a token for its backward pass.

    Both norms keep what they read and what they gave; attention its queries, keys, values and result, which the output
    projection reads in another order; the MLP gate and value, before and after they meet.
    """
    inner, shared = config.heads * config.head_width, config.key_heads * config.head_width
    mlp = (2 if config.is_gpt2 else 4) * config.mlp_width
    normed = 2 * (inner + shared) if config.qk_norm else 0
    return 4 * config.width + 3 * inner + 2 * shared + normed + mlp
