"""What a fine-tune gained and what it forgot: bits per byte of answers, and of the base's own documents by domain."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from chatwright.feedback.conversations import Conversation
from chatwright.model.network import Network
from chatwright.model.prompts import ChatEncoder
from chatwright.tokens.shards import TokenDocument
from chatwright.train.heldout import by_domain, document_losses
from chatwright.train.objectives import next_token
from chatwright.tune import forgetting
from chatwright.tune.chats import Sample, collate, encode_samples


class Answers(NamedTuple):
    """Conversations that are measured: their samples, and the bytes of their answers' text."""

    samples: list[Sample]
    num_bytes: int


def answers_of(conversations: Sequence[Conversation], encoder: ChatEncoder, *, context_length: int) -> Answers:
    """Conversations made ready for the measurement; empty where there are none.

    Turns that are left out for want of context are not scored, so their bytes do not count.
    """
    samples = encode_samples(conversations, encoder, context_length=context_length)
    num_bytes = 0
    for item, sample in zip(conversations, samples, strict=True):
        said = [message.content for message in item.messages if message.role == "assistant"]
        num_bytes += sum(len(text.encode()) for text in said[sample.dropped_turns // 2 :])  # a question with each
    return Answers(samples, num_bytes)


@torch.inference_mode()
def bits_per_byte(network: Network, answers: Answers, *, rows: int = 64) -> float:
    """Loss on the answers, in bits per byte of their text."""
    device = network.lm_head.weight.device
    ordered = sorted(answers.samples, key=lambda sample: len(sample.inputs))
    nats = sum(
        float(next_token(network, collate([[sample] for sample in ordered[start : start + rows]]).to(device)))
        for start in range(0, len(ordered), rows)
    )
    return round(nats / math.log(2) / max(1, answers.num_bytes), 5)


class Task(NamedTuple):
    """The two sides that a fine-tune is measured on."""

    test: Answers
    validation: Answers
    heldout: list[TokenDocument]  # of the base's documents, a sample of each domain
    begin: int  # the token that documents are read from

    def figures(self, network: Network) -> dict[str, Any]:
        """Bits per byte on the answers, and on the base's documents by domain; what there is not is left out."""
        network.eval()
        result: dict[str, Any] = {
            f"{name}_bits_per_byte": bits_per_byte(network, answers)
            for name, answers in (("test", self.test), ("validation", self.validation))
            if answers.samples
        }
        if self.heldout:
            length = network.config.context_length
            losses = document_losses(network, self.heldout, begin=self.begin, stride=length)
            result["heldout"] = by_domain(losses)
        return result


def forgotten(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """Bits per byte lost on the base's held-out documents, by domain; positive means forgotten."""
    was, now = (
        {name: values["bits_per_byte"] for name, values in side.get("heldout", {}).items()} for side in (before, after)
    )
    return forgetting.forgotten(was, now)


def two_sided(before: dict[str, Any], now: dict[str, Any], *, forgetting_weight: float) -> float:
    """The score by which a model is kept: bits of answers held back, and what was forgotten; least is best."""
    lost = forgotten(before, now).get("all", 0.0)
    return round(float(now["validation_bits_per_byte"]) + forgetting_weight * max(0.0, lost), 5)
