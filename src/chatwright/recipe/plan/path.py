"""Fine-tune a model that is there, or pretrain one: which path fits the text and the compute, with the reasons.

A rule of thumb with its sources, not a measurement: it reads two numbers and says what they mean.
"""

from typing import Any, NamedTuple

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


class Advice(NamedTuple):
    """Which path, and why."""

    path: str  # "pretrain", "finetune" or "continue"
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {"path": self.path, "reasons": list(self.reasons)}


def advise(*, corpus_tokens: int, flops: float) -> Advice:
    """Judge text and compute.

    Args:
        corpus_tokens: of the documents to train on.
        flops: operations that the budget buys.

    Returns:
        `pretrain` where both suffice for fluent text, `continue` (pretraining a foreign base on one's documents) where
        the text is worth it and the compute reads it once with a small base, else `finetune`.
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
    if corpus_tokens >= _DOMAIN_TOKENS and flops >= 6 * _SMALL_BASE * corpus_tokens:
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
            "for answers that help, fine-tune a model that is there: `[base]` and `[finetune]`, as in "
            "`recipes/support-lora.toml`; pretrain here to learn how it works, or for style alone",
        ),
    )
