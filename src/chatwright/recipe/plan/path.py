"""Fine-tune a model that is there, or pretrain one: which path fits text, compute and memory, with the reasons.

A rule of thumb with its sources, not a measurement: it reads four numbers and says what they mean.
"""

from typing import Any, NamedTuple

from chatwright.foundation.console import duration
from chatwright.recipe.plan.scaling import effective_tokens

# GPT-2 small was the first of its size to write paragraphs; by the law of Hoffmann et al. 2022 its 124 million
# parameters want 2.5 billion tokens. Below a tenth of that, a model's own sentences hold together for a line or so.
_FLUENT_TOKENS = 2.5e9
_FLUENT_PARAMETERS = 124e6
# Below, text teaches style and facts rather than a domain: a border of ours, between the 10 and the 100 million
# words of BabyLM (Warstadt et al. 2023).
_DOMAIN_TOKENS = 5e7
_SMALL_BASE = 0.6e9  # parameters of the smallest open base that answers well: Qwen3-0.6B (Qwen team 2025)
_USEFUL_EPOCHS = 4  # Muennighoff et al. 2023: up to here repeated text is worth nearly as much as new
# Fine-tuning such a base: forward and back through frozen weights, 4 operations a parameter and token, once over the
# example of `recipes/support-lora.toml`, about 85 tokens a conversation; memory as docs/guides/finetune-qwen3.md says.
_CONVERSATIONS = 6582
_TUNE_FLOPS = 4 * _SMALL_BASE * 85 * _CONVERSATIONS
_TUNE_BYTES = 8e9
_TRAIN_BYTES = 16 * _SMALL_BASE  # all of it trained: weights, gradients and AdamW's moments in float32


class Advice(NamedTuple):
    """Which path, and why."""

    path: str  # "pretrain", "finetune" or "continue"
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {"path": self.path, "reasons": list(self.reasons)}


def advise(*, corpus_tokens: int, flops: float, seconds: float, memory_bytes: float) -> Advice:
    """Judge text, compute and memory.

    Args:
        corpus_tokens: of the documents to train on.
        flops: operations of the training that was planned.
        seconds: that it takes here.
        memory_bytes: free, of one device.

    Returns:
        `pretrain` where text and compute suffice for fluent text, `continue` (pretraining a foreign base on one's
        documents) where the text is worth it, the compute reads it once with a small base and the memory holds one,
        else `finetune`, with what that takes here.
    """
    usable = effective_tokens(_USEFUL_EPOCHS * corpus_tokens, corpus_tokens)
    affordable = flops / (6 * _FLUENT_PARAMETERS)
    enough_text, enough_compute = usable >= _FLUENT_TOKENS, affordable >= _FLUENT_TOKENS
    reasons = (
        f"text: {corpus_tokens:,} tokens, worth {usable:.2g} when read {_USEFUL_EPOCHS} times; a fluent model of "
        f"{_FLUENT_PARAMETERS / 1e6:.0f} million parameters wants {_FLUENT_TOKENS:.2g}",
        f"compute: enough for {affordable:.2g} tokens of such a model"
        + ("" if enough_compute else f", {affordable / _FLUENT_TOKENS:.2g} of what it wants"),
    )
    if enough_text and enough_compute:
        return Advice("pretrain", (*reasons, "both suffice: a base of your own is worth it"))
    reads_once = flops >= 6 * _SMALL_BASE * corpus_tokens
    if corpus_tokens >= _DOMAIN_TOKENS and reads_once and memory_bytes >= _TRAIN_BYTES:
        return Advice(
            "continue",
            (
                *reasons,
                "the text teaches a domain and the compute reads it once with a base of "
                f"{_SMALL_BASE / 1e9:.1f} billion parameters: go on from one, with `[base]` and `[pretrain]`",
            ),
        )
    return Advice(
        "finetune",
        (
            *reasons,
            "for answers that help, fine-tune a model that is there: `chatwright finetune MODEL DATA`; pretrain here "
            "to learn how it works, or for style alone",
            _tuning_told(_TUNE_FLOPS / flops, seconds, memory_bytes),
        ),
    )


def _tuning_told(times: float, seconds: float, memory_bytes: float) -> str:
    """What fine-tuning takes here, by an example: a person's own conversations may be fewer or more."""
    share = f"{times:,.0f} times" if times >= 10 else f"{times:.2g} times" if times >= 1 else f"{times:.1%} of"
    enough = "" if memory_bytes >= _TUNE_BYTES else ", too little: take a smaller base, or another machine"
    return (
        f"with a base of {_SMALL_BASE / 1e9:.1f} billion parameters one pass over {_CONVERSATIONS:,} short "
        f"conversations takes about {share} this training, {duration(times * seconds)}, and about "
        f"{_TUNE_BYTES / 1e9:.0f} GB of memory; {memory_bytes / 1e9:.1f} GB are free here{enough}"
    )
