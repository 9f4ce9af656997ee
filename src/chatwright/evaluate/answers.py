"""Answers against references: BLEU and chrF with their signatures, exact share, and whether the right one was given.

Where conversations carry a label (the policy that an answer states), an answer counts as right if, of all labels'
reference answers, the expected one is nearest to it by words and near enough.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from chatwright.evaluate.beam import beam_answers
from chatwright.evaluate.metrics import same, score_intervals, text_scores, token_f1
from chatwright.evaluate.resampling import share_interval
from chatwright.feedback.conversations import OUT_OF_SCOPE, Conversation, Message
from chatwright.model.chat import ChatModel
from chatwright.model.engine.engine import Written
from chatwright.model.generation import Finish

NEAR_ENOUGH = 0.5  # token F1 with the reference below which an answer states no policy at all


class Answered(NamedTuple):
    """A test conversation with what the model said."""

    conversation: Conversation
    answer: str
    finish: Finish = "stop"  # how it ended: by itself, or at the most tokens that it may have

    @property
    def reference(self) -> str:
        """What it should have said."""
        return self.conversation.references[0]

    @property
    def question(self) -> str:
        """What it was asked last."""
        return self.conversation.messages[-2].content


def ask(
    model: ChatModel, conversations: Sequence[Conversation], *, max_tokens: int, rows: int = 64, beams: int = 1
) -> list[Answered]:
    """Answers to the last question of each conversation, greedy or by beam search; what comes before it stands."""
    order = sorted(range(len(conversations)), key=lambda index: _length(conversations[index]))
    answers: dict[int, Written] = {}
    for start in range(0, len(order), rows):
        group = order[start : start + rows]
        asked = [_asked(conversations[index]) for index in group]
        if beams == 1:
            written = model.written(asked, max_tokens=max_tokens)
        else:
            written = beam_answers(model, asked, beams=beams, max_tokens=max_tokens)
        answers.update(zip(group, written, strict=True))
    return [
        Answered(conversation, answers[index].text.strip(), answers[index].finish)
        for index, conversation in enumerate(conversations)
    ]


def _asked(conversation: Conversation) -> tuple[Message, ...]:
    return conversation.messages[:-1]


def _length(conversation: Conversation) -> int:
    return sum(len(message.content) for message in _asked(conversation))


def references_by_label(conversations: Sequence[Conversation]) -> dict[str, str]:
    """The most frequent answer of each label."""
    seen: dict[str, Counter[str]] = {}
    for conversation in conversations:
        if conversation.label is not None:
            seen.setdefault(conversation.label, Counter())[conversation.messages[-1].content] += 1
    return {label: answers.most_common(1)[0][0] for label, answers in seen.items()}


def stated_label(answer: str, references: dict[str, str]) -> str | None:
    """The label whose reference is nearest to the answer, or None if none is near enough."""
    scored = [(token_f1(answer, reference), label) for label, reference in references.items()]
    best = max(scored, default=(0.0, ""))
    return best[1] if best[0] >= NEAR_ENOUGH else None


def score(answered: Sequence[Answered], references: dict[str, str]) -> dict[str, Any]:
    """All figures over one set of answers; the 95 % interval of `right` is `right_95`, and so on.

    Shares have Wilson's interval, figures over texts the bootstrap's over questions.
    """
    if not answered:
        return {"questions": 0}
    said, wanted = [item.answer for item in answered], [item.conversation.references for item in answered]
    scored = text_scores(said, wanted)
    figures: dict[str, Any] = {"questions": scored.pop("texts"), **scored, **score_intervals(said, wanted)}
    is_exact = [any(same(one, right) for right in several) for one, several in zip(said, wanted, strict=True)]
    figures |= _sure("exact", is_exact)
    labelled = [item for item in answered if item.conversation.label is not None]
    if labelled and references:
        stated = [stated_label(item.answer, references) for item in labelled]
        right = [label == item.conversation.label for label, item in zip(stated, labelled, strict=True)]
        figures |= {"right": _share(right), **_sure("right", right)}
        figures["right_by_kind"] = _by_kind(labelled, right)
    return figures


def _by_kind(answered: Sequence[Answered], right: Sequence[bool]) -> dict[str, dict[str, Any]]:
    """One turn, two turns and refusals apart: they are not equally hard."""
    groups: dict[str, list[bool]] = {}
    for item, is_right in zip(answered, right, strict=True):
        groups.setdefault(_kind(item.conversation), []).append(is_right)
    return {
        kind: {"questions": len(group), "right": _share(group), **_sure("right", group)}
        for kind, group in sorted(groups.items())
    }


def _kind(conversation: Conversation) -> str:
    if conversation.label == OUT_OF_SCOPE:
        return "out of scope"
    return "one turn" if len(conversation.messages) == 2 else "several turns"


def _sure(name: str, flags: Sequence[bool]) -> dict[str, list[float]]:
    """The interval of a share, under its name."""
    return {f"{name}_95": share_interval(sum(flags), len(flags)).rounded(4)}


def _share(flags: Iterable[bool]) -> float:
    listed = list(flags)
    return float(round(sum(listed) / max(1, len(listed)), 4))
