"""Conversations as token ids: the turn form of ChatML, or Llama 3's, by what the vocabulary has.

Markers are inserted as ids and text is encoded apart, so that nobody can write a marker. Each token carries whether
the assistant wrote it: that is the loss mask, computed here token by token.
"""

from collections.abc import Sequence
from typing import NamedTuple

from chatwright.feedback.conversations import Message
from chatwright.foundation.errors import RefusedError
from chatwright.tokens.tokenizer import TURN_END, TURN_START, Tokenizer


class TurnForm(NamedTuple):
    """The markers around a turn."""

    name: str
    begin: str | None  # before the conversation
    before_role: str
    after_role: str | None  # a marker, then `gap`
    gap: str  # text between role and content
    end: str
    tail: str  # text after the end marker


CHATML = TurnForm("chatml", None, TURN_START, None, "\n", TURN_END, "\n")
LLAMA3 = TurnForm("llama3", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "\n\n", "<|eot_id|>", "")


class TokenizedChat(NamedTuple):
    """A conversation as ids, each with whose words it is."""

    ids: list[int]
    is_target: list[bool]  # what the assistant wrote, its end marker included
    is_question: list[bool]  # what the user wrote, without any marker


class ChatEncoder:
    """Turns messages into ids in the form that the tokenizer's model speaks."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.form = _form_of(tokenizer)
        self.end = self._marker(self.form.end)

    def conversation(self, messages: Sequence[Message]) -> TokenizedChat:
        """A whole conversation, for training."""
        ids, is_target = self._opening()
        is_question = [False] * len(ids)
        for message in messages:
            head = self._head(message.role)
            text = self._tokenizer.encode(message.content)
            tail = self._tokenizer.encode(self.form.tail) if self.form.tail else []
            wrote = message.role == "assistant"
            ids += [*head, *text, self.end, *tail]
            is_target += [False] * len(head) + [wrote] * (len(text) + 1) + [False] * len(tail)
            is_question += [False] * len(head) + [message.role == "user"] * len(text) + [False] * (1 + len(tail))
        return TokenizedChat(ids, is_target, is_question)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """A conversation up to where the assistant speaks next."""
        return [*self.conversation(messages).ids, *self._head("assistant")]

    def stop_ids(self) -> frozenset[int]:
        """Ids at which an answer ends."""
        return frozenset({self.end, self._tokenizer.end_of_text})

    def _opening(self) -> tuple[list[int], list[bool]]:
        if self.form.begin is None:
            return [], []
        return [self._marker(self.form.begin)], [False]

    def _head(self, role: str) -> list[int]:
        after = [] if self.form.after_role is None else [self._marker(self.form.after_role)]
        if not after:  # ChatML encodes role and line break as one text
            return [self._marker(self.form.before_role), *self._tokenizer.encode(role + self.form.gap)]
        gap = self._tokenizer.encode(self.form.gap)
        return [self._marker(self.form.before_role), *self._tokenizer.encode(role), *after, *gap]

    def _marker(self, token: str) -> int:
        number = self._tokenizer.special(token)
        if number is None:
            raise RefusedError(f"the tokenizer lacks the turn marker `{token}`")
        return number


def stop_tokens(tokenizer: Tokenizer) -> list[int]:
    """Ids that end an answer, the turn's own marker first: others call it the end of sequence."""
    named = tokenizer.named("eos_token")
    ends = [tokenizer.special(form.end) for form in (CHATML, LLAMA3)] + [named, tokenizer.end_of_text]
    return list(dict.fromkeys(number for number in ends if number is not None))


def _form_of(tokenizer: Tokenizer) -> TurnForm:
    for form in (CHATML, LLAMA3):
        if all(tokenizer.special(token) is not None for token in (form.before_role, form.end)):
            return form
    raise RefusedError(
        "the tokenizer has the turn markers of neither ChatML nor Llama 3, so its model cannot be chatted with",
        hint="use an instruction-tuned model of one of these forms, or pretrain one with this system",
    )
