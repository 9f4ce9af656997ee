"""Whether llama.cpp reads text with a GGUF file as our tokenizer does, token for token. Needs `llama-cpp-python`."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from chatwright.tokens.tokenizer import Tokenizer


class Mismatch(NamedTuple):
    """A text that the two read differently."""

    text: str
    ours: list[int]
    theirs: list[int]


def llama_cpp_is_installed() -> bool:
    """Whether the comparison can be made here."""
    return importlib.util.find_spec("llama_cpp") is not None


def token_mismatches(path: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> list[Mismatch]:
    """The texts whose ids differ between our tokenizer and llama.cpp's reading of a GGUF file."""
    import llama_cpp

    vocabulary = llama_cpp.Llama(model_path=str(path), vocab_only=True, verbose=False)
    try:
        read = [list(vocabulary.tokenize(text.encode(), add_bos=False, special=False)) for text in texts]
    finally:
        vocabulary.close()
    ours = tokenizer.encode_batch(texts)
    return [
        Mismatch(text, mine, theirs) for text, mine, theirs in zip(texts, ours, read, strict=True) if mine != theirs
    ]
