"""Our tokenizer as llama.cpp's: only where it splits text exactly as one of llama.cpp's built-in patterns does.

llama.cpp takes from the file only the pattern's name. A tokenizer under the wrong name is read without complaint and
gives other ids, most often for numbers; so what is not known to be equal is refused by name.
"""

import json
from enum import IntEnum
from typing import Any, NamedTuple

from chatwright.foundation.errors import RefusedError
from chatwright.tokens.tokenizer import LLAMA3_PATTERN, Tokenizer

# Qwen 2's pattern: Llama 3's, with every digit a piece of its own.
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
_PATTERNS = {LLAMA3_PATTERN: "llama-bpe", QWEN2_PATTERN: "qwen2"}
_GPT2 = "gpt-2"


class TokenType(IntEnum):
    """llama.cpp's kinds of tokens."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


class GgufTokenizer(NamedTuple):
    """What a GGUF file says about a tokenizer."""

    pattern: str  # llama.cpp's name
    tokens: list[str]
    types: list[int]
    merges: list[str]
    composes: bool  # our tokenizer brings text into form NFC first, which llama.cpp does not


def gguf_tokenizer(tokenizer: Tokenizer, *, rows: int) -> GgufTokenizer:
    """The tokenizer with one token for each row of the model's embedding.

    Raises:
        RefusedError: it is none of the three kinds that llama.cpp is known to read alike.
    """
    value: dict[str, Any] = json.loads(tokenizer.to_json())
    model = value["model"]
    if model.get("type") != "BPE":
        raise _refused(f"it is of the kind `{model.get('type')}`, not byte-level BPE")
    for option in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            raise _refused(f"its option `{option}` is set")
    pattern = _pattern(value.get("pre_tokenizer"))
    composes = _composes(value.get("normalizer"))
    _require_merges_that_lead_to_words(tokenizer, model, pattern=pattern)
    tokens, types = _tokens(value, rows=rows)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return GgufTokenizer(pattern, tokens, types, merges, composes)


def _refused(problem: str) -> RefusedError:
    return RefusedError(
        f"llama.cpp would read text differently than this tokenizer: {problem}",
        cause="llama.cpp knows split patterns by name only: those of Llama 3, Qwen 2 and GPT-2 are verified",
        hint="serve the model with chatwright or another program that reads `tokenizer.json`",
    )


def _pattern(pre: Any) -> str:
    steps = pre.get("pretokenizers", [pre]) if isinstance(pre, dict) else []
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        raise _refused("it does not end in plain byte-level pieces")
    if len(steps) == 1 and steps[0].get("use_regex", True):
        return _GPT2
    if len(steps) == 2 and not steps[1].get("use_regex", True):
        split = steps[0]
        expression = (split.get("pattern") or {}).get("Regex") if split.get("type") == "Split" else None
        name = _PATTERNS.get(str(expression))
        if name and split.get("behavior") == "Isolated" and not split.get("invert"):
            return name
        raise _refused(f"its split pattern is {json.dumps(split.get('pattern'))}")
    raise _refused("its steps of splitting text are others: " + ", ".join(str(step.get("type")) for step in steps))


def _composes(normaliser: Any) -> bool:
    if normaliser is None:
        return False
    steps = normaliser.get("normalizers", [normaliser])
    if [step.get("type") for step in steps] == ["NFC"]:
        return True
    raise _refused("it changes text before it splits it: " + ", ".join(str(step.get("type")) for step in steps))


def _require_merges_that_lead_to_words(tokenizer: Tokenizer, model: dict[str, Any], *, pattern: str) -> None:
    """Under Llama 3's name llama.cpp takes a whole word from the vocabulary without asking the merges; else never."""
    if model.get("ignore_merges") and pattern == "llama-bpe":
        return
    unreached = tokenizer.unreached_words()
    if unreached and (model.get("ignore_merges") or pattern == "llama-bpe"):
        raise _refused(f"its merges do not lead to {len(unreached)} of its words, {unreached[0]!r} for one")


def _tokens(value: dict[str, Any], *, rows: int) -> tuple[list[str], list[int]]:
    by_id = {number: (token, TokenType.NORMAL) for token, number in value["model"]["vocab"].items()}
    for entry in value.get("added_tokens") or []:
        kind = TokenType.CONTROL if entry.get("special") else TokenType.USER_DEFINED
        by_id[entry["id"]] = (entry["content"], kind)
    if max(by_id) >= rows:
        raise RefusedError(f"tokenizer and model do not fit: an id of {max(by_id)}, {rows} rows")
    filled = [by_id.get(row, (f"[PAD{row}]", TokenType.UNUSED)) for row in range(rows)]
    return [token for token, _ in filled], [int(kind) for _, kind in filled]
