"""Conversations as token ids, in the turn form of the model: ChatML, Qwen 3's with its thinking, or Llama 3's.

Markers are inserted as ids and text between two markers is encoded without them, so that nobody can write a marker.
Each token carries whether the assistant wrote it: that is the loss mask, computed here token by token. Templates of
imported models are not run: the form is told by the vocabulary and by a few words of the template.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from chatwright.feedback.conversations import Message
from chatwright.foundation.errors import RefusedError
from chatwright.tokens.tokenizer import LLAMA3_MARKERS, TURN_END, TURN_START, Tokenizer


class TurnForm(NamedTuple):
    """The markers around a turn."""

    name: str
    begin: str | None  # before the conversation
    before_role: str
    after_role: str | None  # a marker, then `gap`
    gap: str  # text between role and content
    end: str
    tail: str  # text after the end marker
    trims: bool = False  # spaces around a turn's text are left out
    thinks: bool = False  # each answer begins with what the model thought, or with an empty thought
    learns_tail: bool = False  # the tail of an answer counts as the assistant's


CHATML = TurnForm("chatml", None, TURN_START, None, "\n", TURN_END, "\n")
QWEN3 = CHATML._replace(name="qwen3", thinks=True, learns_tail=True)  # the tail as in TRL's template for training
_BEGIN, _HEADER, _HEADER_END, _TURN_END = LLAMA3_MARKERS
LLAMA3 = TurnForm("llama3", _BEGIN, _HEADER, _HEADER_END, "\n\n", _TURN_END, "", trims=True)

_QWEN3_WORDS = ("reasoning_content", "enable_thinking")  # of a template
_THOUGHT = "<think>"
# Words of templates that are no plain ChatML: models that always think (Qwen 3 Thinking 2507), that have a mode of
# thinking told in their system turn, and the date (SmolLM 3).
_NOT_UNDERSTOOD = (_THOUGHT, "reasoning_mode", "strftime_now")
_NO_THOUGHT = "<think>\n\n</think>\n\n"
# A system turn that a template writes where the conversation has none (SmolLM 2, Qwen 2.5).
_DEFAULT_SYSTEM = re.compile(r"<\|im_start\|>system(?:\\n|\n)([^<>{}'\"\\]{1,1000})<\|im_end\|>")

_Author = Literal["assistant", "user"] | None


class TokenizedChat(NamedTuple):
    """A conversation as ids, each with whose words it is."""

    ids: list[int]
    is_target: list[bool]  # what the assistant wrote, its end marker included
    is_question: list[bool]  # what the user wrote, without any marker


class _Marker(NamedTuple):
    token: str
    is_learned: bool = False


class _Text(NamedTuple):
    text: str
    author: _Author = None


class ChatEncoder:
    """Turns messages into ids in the form that the tokenizer's model speaks."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.form = _form_of(tokenizer)
        self.end = self._marker(self.form.end)
        _require_unwritable(tokenizer, self.form)
        self._default_system = _default_system(tokenizer)

    def conversation(self, messages: Sequence[Message]) -> TokenizedChat:
        """A whole conversation, for training."""
        return self._encoded([*self._opening(messages), *self._turns(messages, with_thoughts=True)])

    def prompt(self, messages: Sequence[Message], *, thinking: bool = False) -> list[int]:
        """A conversation up to where the assistant speaks next; thoughts of earlier turns are left out.

        Args:
            messages: so far.
            thinking: whether a model that can think first is left to do so; else it is given an empty thought.
        """
        head = list(self._head("assistant"))
        if self.form.thinks and not thinking:
            head.append(_Text(_NO_THOUGHT))
        return self._encoded([*self._opening(messages), *self._turns(messages, with_thoughts=False), *head]).ids

    def stop_ids(self) -> frozenset[int]:
        """Ids at which an answer ends."""
        return frozenset({self.end, self._tokenizer.end_of_text})

    def _opening(self, messages: Sequence[Message]) -> Iterator[_Marker | _Text]:
        if self.form.begin is not None:
            yield _Marker(self.form.begin)
        if self._default_system is not None and not (messages and messages[0].role == "system"):
            yield from self._turns([Message("system", self._default_system)], with_thoughts=False)

    def _head(self, role: str) -> Iterator[_Marker | _Text]:
        yield _Marker(self.form.before_role)
        yield _Text(role)
        if self.form.after_role is not None:
            yield _Marker(self.form.after_role)
        yield _Text(self.form.gap)

    def _turns(self, messages: Sequence[Message], *, with_thoughts: bool) -> Iterator[_Marker | _Text]:
        for message in messages:
            yield from self._head(message.role)
            wrote = message.role == "assistant"
            content = message.content.strip() if self.form.trims else message.content
            if wrote and self.form.thinks:
                content = _thinking_first(content) if with_thoughts else _without_thought(content)
            yield _Text(content, message.role if message.role != "system" else None)
            yield _Marker(self.form.end, wrote)
            yield _Text(self.form.tail, "assistant" if wrote and self.form.learns_tail else None)

    def _encoded(self, pieces: Sequence[_Marker | _Text]) -> TokenizedChat:
        """Ids of all pieces; text between two markers is encoded as one, as it is where templates are rendered."""
        chat = TokenizedChat([], [], [])
        pending: list[_Text] = []
        for piece in pieces:
            if isinstance(piece, _Text):
                pending.append(piece)
                continue
            self._add_text(chat, pending)
            pending = []
            chat.ids.append(self._marker(piece.token))
            chat.is_target.append(piece.is_learned)
            chat.is_question.append(False)
        self._add_text(chat, pending)
        return chat

    def _add_text(self, chat: TokenizedChat, pieces: Sequence[_Text]) -> None:
        """A token over the border counts as the assistant's if any of its characters is, as the user's if all are."""
        authors: list[_Author] = [piece.author for piece in pieces for _ in piece.text]
        for token in self._tokenizer.encode_spans("".join(piece.text for piece in pieces)):
            wrote = authors[token.start : token.end]
            chat.ids.append(token.id)
            chat.is_target.append("assistant" in wrote)
            chat.is_question.append(bool(wrote) and all(author == "user" for author in wrote))

    def _marker(self, token: str) -> int:
        number = self._tokenizer.special(token)
        if number is None:
            raise RefusedError(f"the tokenizer lacks the turn marker `{token}`")
        return number


def _without_thought(content: str) -> str:
    """An answer as later turns see it."""
    return content.rsplit("</think>", maxsplit=1)[-1].lstrip("\n") if "</think>" in content else content


def _thinking_first(content: str) -> str:
    """An answer with its thought before it, an empty one where it has none; the form of TRL's template for training."""
    thought = ""
    if "</think>" in content:
        thought = content.split("</think>", maxsplit=1)[0].rstrip("\n").split("<think>")[-1].strip("\n")
    return f"<think>\n{thought}\n</think>\n\n" + _without_thought(content).lstrip("\n")


def stop_tokens(tokenizer: Tokenizer) -> list[int]:
    """Ids that end an answer, the turn's own marker first: others call it the end of sequence."""
    named = tokenizer.named("eos_token")
    ends = [tokenizer.special(form.end) for form in (CHATML, LLAMA3)] + [named, tokenizer.end_of_text]
    return list(dict.fromkeys(number for number in ends if number is not None))


def _form_of(tokenizer: Tokenizer) -> TurnForm:
    template = _template(tokenizer)
    for form in (CHATML, LLAMA3):
        if all(tokenizer.special(token) is not None for token in (form.before_role, form.end)):
            return _chatml_of(template) if form is CHATML else form
    raise RefusedError(
        "the tokenizer has the turn markers of neither ChatML nor Llama 3, so its model cannot be chatted with",
        hint="use an instruction-tuned model of one of these forms, or pretrain one with this system",
    )


def _chatml_of(template: str) -> TurnForm:
    """ChatML as a template has it: plain, or Qwen 3's.

    Raises:
        RefusedError: the template writes what neither has, by the words that tell of it.
    """
    thinks = all(word in template for word in _QWEN3_WORDS)
    strange = [word for word in _NOT_UNDERSTOOD if word in template and not (thinks and word == _THOUGHT)]
    if strange:
        raise RefusedError(
            f"the model's chat template does more than ChatML, so the model cannot be chatted with: it has the words "
            f"{', '.join(f'`{word}`' for word in strange)}",
            cause="templates are not run here, and turns written without thoughts, modes or dates would be others",
            hint="take `chat_template` out of its `tokenizer_config.json`, and `chat_template.jinja` away, if plain "
            "ChatML will do",
        )
    return QWEN3 if thinks else CHATML


def _require_unwritable(tokenizer: Tokenizer, form: TurnForm) -> None:
    """Where a marker is an ordinary entry of the vocabulary, text may become one, whatever the tokenizer leaves out."""
    for token in (form.begin, form.before_role, form.after_role, form.end):
        if token is not None and tokenizer.special(token) in tokenizer.encode(token):
            raise RefusedError(
                f"a text that spells the turn marker `{token}` would become one with this tokenizer",
                hint="list the marker among the `added_tokens` of its `tokenizer.json`, as special",
            )


def _template(tokenizer: Tokenizer) -> str:
    value = tokenizer.settings.get("chat_template")
    return value if isinstance(value, str) else ""


def _default_system(tokenizer: Tokenizer) -> str | None:
    """What the template says as system where nobody does; several such texts are not understood, and not used."""
    found = set(_DEFAULT_SYSTEM.findall(_template(tokenizer)))
    return found.pop() if len(found) == 1 else None
