"""From text to token ids and back: a byte-level BPE by default, whole words or single bytes as a choice.

Training and encoding are Hugging Face tokenizers'; a faster encoder takes over where its ids equal theirs (`fast`).
Text never becomes a special token here: whoever wants one inserts its id.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HfTokenizer

from chatwright.foundation import storage
from chatwright.foundation.config import Config
from chatwright.foundation.errors import DataError, RefusedError
from chatwright.tokens.fast import fast_encoder
from chatwright.tokens.mixture import weight_problems
from chatwright.tokens.quick_merges import learn_merges

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
UNKNOWN_WORD = "<|unk|>"
_END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>")  # ours and Qwen's, Llama 3's, Llama 2's
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
LLAMA3_MARKERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
# What text never becomes, also where a tokenizer's file lists it among its added tokens without calling it special.
_MARKERS = frozenset({*SPECIAL_TOKENS, *_END_OF_TEXT_NAMES, *LLAMA3_MARKERS})

# The split pattern of Llama 3 (tiktoken's cl100k), unchanged: fast encoders and llama.cpp know exactly this one.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The turn form of ChatML, as a template for programs that render by template; we insert ids ourselves.
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class TokenizerConfig(Config):
    """How to learn the tokenizer from the corpus."""

    kind: Literal["bpe", "words", "bytes"] = "bpe"
    vocabulary_size: int = Field(default=4096, ge=300, le=1_000_000)  # special tokens included; bytes have their own
    # "rustbpe" (the extra `fast`) learns the merges several times faster; between equally frequent pairs it chooses
    # otherwise than Hugging Face's, so the vocabularies differ a little.
    trainer: Literal["huggingface", "rustbpe"] = "huggingface"
    max_training_bytes: int = Field(default=100 << 20, ge=1)  # of the corpus; of a larger one an even sample
    # Shares of the sample, by domain. None: those of `pretrain.mixture`, if there is one; {}: as large as they are.
    weights: dict[str, float] | None = None

    def problems(self) -> Iterator[str]:
        """No setting without effect."""
        if self.trainer != "huggingface" and self.kind != "bpe":
            yield f'`trainer` has no effect with `kind = "{self.kind}"`'
        if self.weights and self.kind == "bytes":
            yield '`weights` has no effect with `kind = "bytes"`, which learns nothing'
        if self.weights:
            yield from weight_problems("weights", self.weights)

    @model_serializer(mode="wrap")
    def _said(self, told: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without weights that are absent, so that what was learned before there were any is not learned again."""
        return {name: value for name, value in told(self).items() if name != "weights" or value is not None}


class TokenSpan(NamedTuple):
    """A token and the characters of the text that it stands for, end exclusive."""

    id: int
    start: int
    end: int


class StreamDecoder:
    """Turns token ids that arrive one by one into text pieces that are always whole characters.

    Two cursors, as in Hugging Face's text-generation-inference: the text of a short prefix is subtracted, so that
    decoders which treat the first token differently still give the right spaces. `before` is what stands before the
    first piece already; where there is nothing, it begins a text.
    """

    def __init__(self, tokenizer: "Tokenizer", *, before: Sequence[int] = ()):
        self._tokenizer = tokenizer
        self._ids = list(before)
        self._prefix = 0
        self._read = len(self._ids)

    def push(self, token: int) -> str:
        """The text that became certain with this token; empty while a character is incomplete."""
        self._ids.append(token)
        known = self._tokenizer.decode(self._ids[self._prefix : self._read])
        text = self._tokenizer.decode(self._ids[self._prefix :])
        if text.endswith("\ufffd") or len(text) <= len(known):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return text[len(known) :]

    def flush(self) -> str:
        """What is left at the end, with damaged bytes shown as U+FFFD."""
        known = self._tokenizer.decode(self._ids[self._prefix : self._read])
        return self._tokenizer.decode(self._ids[self._prefix :])[len(known) :]


class Tokenizer:
    """A trained tokenizer: `tokenizer.json` and `tokenizer_config.json` of a directory."""

    def __init__(self, backend: HfTokenizer, settings: dict[str, Any]):
        backend.encode_special_tokens = True  # user text can never become a special token
        backend.no_padding()
        backend.no_truncation()
        told = backend.to_str()
        self.digest = storage.digest_bytes(told.encode())
        # Saved as it was, so that its digest stays; to other programs its markers are what they were, too.
        self._told = told if _make_special(backend) else None
        self._backend = backend
        self._fast = fast_encoder(backend, pattern=LLAMA3_PATTERN)
        self.settings = settings
        # Rows that a model needs: an id may lie beyond a gap in the vocabulary.
        self.size: int = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, without any special token.

        Raises:
            DataError: the text holds half of a surrogate pair, which no UTF-8 can express.
        """
        if self._fast is not None and self._fast.takes(text):
            return self._fast.encode(text)
        with _sound_text([text]):
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, on all cores.

        Raises:
            DataError: as `encode`.
        """
        if self._fast is not None and all(map(self._fast.takes, texts)):
            return self._fast.encode_batch(texts)
        with _sound_text(texts):
            return [item.ids for item in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """The same as arrays, which costs less where there are many.

        Raises:
            DataError: as `encode`.
        """
        if self._fast is not None and all(map(self._fast.takes, texts)):
            return self._fast.encode_arrays(texts)
        return [np.array(ids, np.int64) for ids in self.encode_batch(texts)]

    def encode_spans(self, text: str) -> list["TokenSpan"]:
        """Token ids of plain text, each with the characters it stands for (a character's bytes may be shared).

        Raises:
            DataError: as `encode`.
        """
        with _sound_text([text]):
            encoding = self._backend.encode(text, add_special_tokens=False)
        return [TokenSpan(number, *span) for number, span in zip(encoding.ids, encoding.offsets, strict=True)]

    def unreached_words(self) -> list[str]:
        """Tokens that stand for one whole piece of text, yet which encoding that text does not give.

        Programs that look whole pieces up in the vocabulary give other ids for these.
        """
        words = []
        for token, number in self._backend.get_vocab(with_added_tokens=False).items():
            text = self._backend.decoder.decode([token])
            if text and "\ufffd" not in text and len(self._backend.pre_tokenizer.pre_tokenize_str(text)) == 1:
                words.append((text, number))
        encoded = self.encode_batch([text for text, _ in words])
        return [text for (text, number), ids in zip(words, encoded, strict=True) if ids != [number]]

    def to_json(self) -> str:
        """What `tokenizer.json` holds, with every turn marker called special."""
        return str(self._backend.to_str(pretty=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens are left out."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text

    def special(self, token: str) -> int | None:
        """Id of a special token, or None where the vocabulary lacks it."""
        number: int | None = self._backend.token_to_id(token)
        return number

    def token_text(self, number: int) -> str:
        """The vocabulary's own spelling of one id."""
        return str(self._backend.id_to_token(number))

    @property
    def end_of_text(self) -> int:
        """Id that ends a document.

        Raises:
            RefusedError: the tokenizer names none.
        """
        for name in (*_END_OF_TEXT_NAMES, _token_name(self.settings.get("eos_token"))):
            number = self.special(name) if name else None
            if number is not None:
                return number
        raise RefusedError("the tokenizer names no token that ends a text")

    def named(self, role: str) -> int | None:
        """Id of the token that the settings name for a role such as `eos_token`, or None."""
        name = _token_name(self.settings.get(role))
        return self.special(name) if name else None

    @property
    def begin_of_text(self) -> int:
        """Id that stands before a text: the tokenizer's own, or else the one that ends the text before."""
        number = self.named("bos_token")
        return self.end_of_text if number is None else number

    @property
    def writes_begin(self) -> bool:
        """Whether its own rules put the begin of text before what is encoded, as Llama 3's and Mistral's do."""
        written: list[int] = self._backend.encode("", add_special_tokens=True).ids
        return written[:1] == [self.begin_of_text]

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into an existing directory."""
        (directory / "tokenizer.json").write_text(self._told or self.to_json(), encoding="utf-8")
        storage.write_json(directory / "tokenizer_config.json", self.settings)


def _make_special(backend: HfTokenizer) -> bool:
    """Call the markers among the added tokens special, under the ids that they have; gives whether any was not."""
    plain = [
        token
        for token in backend.get_added_tokens_decoder().values()
        if token.content in _MARKERS and not token.special
    ]
    for token in plain:
        token.special = True
    backend.add_special_tokens(plain)
    return bool(plain)


@contextlib.contextmanager
def _sound_text(texts: Sequence[str]) -> Iterator[None]:
    """Explain the binding's bare TypeError for texts that are not Unicode."""
    try:
        yield
    except TypeError:
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise DataError(f"a text is not sound Unicode at character {error.start}: {error.reason}") from None
        raise


def _token_name(value: Any) -> str | None:
    """Hugging Face writes a special token as a string or as an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def load_tokenizer(directory: Path) -> Tokenizer:
    """Read a Hugging Face tokenizer directory.

    Raises:
        RefusedError: `tokenizer.json` is missing or damaged.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise RefusedError(
            f"`{directory}` has no `tokenizer.json`, so its model cannot read or write text",
            hint="copy the tokenizer's files beside the model's, or make the model again",
        )
    try:
        backend = HfTokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # noqa: BLE001 - the binding raises bare Exception for damaged files
        raise RefusedError(f"`{path}` is not a sound tokenizer: {error}") from error
    ids = backend.get_vocab(with_added_tokens=True).values()
    if len(set(ids)) != len(ids):
        raise RefusedError(f"`{path}` is not a sound tokenizer: {len(ids) - len(set(ids))} ids belong to two tokens")
    settings_path = directory / "tokenizer_config.json"
    settings = storage.read_json(settings_path) if settings_path.is_file() else {}
    if not isinstance(settings, dict):
        raise RefusedError(f"`{settings_path}` is not an object")
    return Tokenizer(backend, settings)


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Learn a vocabulary from texts; the same texts in the same order give the same tokenizer.

    Few texts give fewer tokens than the configuration allows.

    Raises:
        DataError: there is no text to learn from.
    """
    first = next(iterator := iter(texts), None)
    if first is None:
        raise DataError("there is no text to learn a tokenizer from", hint="add documents to `collect.sources`")
    texts = itertools.chain([first], iterator)
    backend = _words(texts, config) if config.kind == "words" else _bpe(texts, config)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1_000_000,
        "bos_token": END_OF_TEXT,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHATML_TEMPLATE,
    }
    if config.kind == "words":
        settings["unk_token"] = UNKNOWN_WORD
    return Tokenizer(backend, settings)


def _bpe(texts: Iterable[str], config: TokenizerConfig) -> HfTokenizer:
    """Bytes, merged pair by pair; or left as they are, where bytes are asked for."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = len(alphabet) + len(SPECIAL_TOKENS) if config.kind == "bytes" else config.vocabulary_size
    backend = HfTokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    if config.trainer == "rustbpe":
        first = [*SPECIAL_TOKENS, *alphabet]
        texts = _within(texts, config.max_training_bytes)
        merges = learn_merges(texts, count=size - len(first), pattern=LLAMA3_PATTERN).pairs
        vocabulary = {token: number for number, token in enumerate([*first, *map("".join, merges)])}
        backend.model = models.BPE(vocab=vocabulary, merges=merges)
        backend.add_special_tokens(list(SPECIAL_TOKENS))
        return backend
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(_within(texts, config.max_training_bytes), trainer=trainer)
    return backend


def _words(texts: Iterable[str], config: TokenizerConfig) -> HfTokenizer:
    """Words and marks as they stand, each with the space before it, so that joining them gives the text back."""
    backend = HfTokenizer(models.WordLevel(unk_token=UNKNOWN_WORD))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated")
    backend.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=config.vocabulary_size, special_tokens=[*SPECIAL_TOKENS, UNKNOWN_WORD], show_progress=False
    )
    backend.train_from_iterator(_within(texts, config.max_training_bytes), trainer=trainer)
    return backend


def _within(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    """Texts in order until `max_bytes` are reached; the one that reaches them is still taken."""
    used = 0
    for text in texts:
        yield text
        used += len(text.encode())
        if used >= max_bytes:
            return


class Compression(NamedTuple):
    """How tightly a tokenizer packs a text."""

    bytes: int
    tokens: int

    @property
    def bytes_per_token(self) -> float:
        """Higher is tighter."""
        return self.bytes / max(1, self.tokens)


def measure_compression(tokenizer: Tokenizer, texts: Iterable[str]) -> Compression:
    """Bytes and tokens over texts."""
    total_bytes = total_tokens = 0
    for text in texts:
        total_bytes += len(text.encode())
        total_tokens += len(tokenizer.encode(text))
    return Compression(total_bytes, total_tokens)
