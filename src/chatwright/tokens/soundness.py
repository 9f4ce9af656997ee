"""Checks of a `tokenizer.json` that nobody vouches for, before the library builds anything from it."""

from pathlib import Path
from typing import Any

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError

MAX_BYTES = 48 << 20  # Llama 3's has 17 MB
MAX_TOKENS = 1 << 20


def require_sound_tokenizer(path: Path) -> None:
    """Refuse files whose vocabulary or merges make no sense, or are beyond all measure. A missing file is not judged.

    Gaps between ids are no fault: models keep rows for tokens to come.

    Raises:
        RefusedError: what is wrong, with the token or the merge.
    """
    if not path.is_file():
        return
    value = storage.read_json(path, max_bytes=MAX_BYTES)
    model = value.get("model") if isinstance(value, dict) else None
    if not isinstance(model, dict):
        raise _unsound(path, "it has no `model`")
    ids = _vocabulary(model, path) | _added(value.get("added_tokens") or [], path)
    if max(ids.values(), default=0) >= 2 * MAX_TOKENS:
        raise _unsound(path, f"its largest id is {max(ids.values())}")
    if model.get("type", "BPE") == "BPE":
        _require_merges(model, path)


def _unsound(path: Path, problem: str) -> RefusedError:
    return RefusedError(f"`{path}` is not a sound tokenizer: {problem}", hint="copy the tokenizer's files again")


def _vocabulary(model: dict[str, Any], path: Path) -> dict[str, int]:
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict | list):
        raise _unsound(path, "it has no `vocab`")
    if len(vocabulary) > MAX_TOKENS:
        raise _unsound(path, f"it has {len(vocabulary)} tokens, at most {MAX_TOKENS} are read")
    if isinstance(vocabulary, list):  # of pairs, their places are the ids (Unigram)
        if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in vocabulary):
            raise _unsound(path, "its `vocab` is not a list of tokens with their scores")
        return {pair[0]: number for number, pair in enumerate(vocabulary)}
    for token, number in vocabulary.items():
        if type(number) is not int or number < 0:
            raise _unsound(path, f"the id of {token[:40]!r} is {str(number)[:40]}")
    if len(set(vocabulary.values())) != len(vocabulary):
        raise _unsound(path, f"{len(vocabulary) - len(set(vocabulary.values()))} ids belong to two tokens")
    return vocabulary


def _added(added: Any, path: Path) -> dict[str, int]:
    ids: dict[str, int] = {}
    if not isinstance(added, list) or len(added) > MAX_TOKENS:
        raise _unsound(path, "its `added_tokens` are not a list")
    for entry in added:
        content, number = (entry.get("content"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not isinstance(content, str) or not content or type(number) is not int or number < 0:
            raise _unsound(path, f"an added token is not a text with an id: {str(entry)[:80]}")
        if ids.get(content, number) != number:
            raise _unsound(path, f"the added token {content[:40]!r} has two ids")
        ids[content] = number
    return ids


def _require_merges(model: dict[str, Any], path: Path) -> None:
    merges, vocabulary = model.get("merges"), model["vocab"]
    if not isinstance(merges, list) or len(merges) > 2 * MAX_TOKENS:
        raise _unsound(path, "its `merges` are not a list, or one beyond all measure")
    marker = model.get("continuing_subword_prefix") or ""
    for number, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise _unsound(path, f"merge {number} is not a pair: {str(merge)[:80]}")
        # An empty part would join a token to itself without end.
        if not pair[0] or not pair[1]:
            raise _unsound(path, f"merge {number} joins nothing to {(pair[0] or pair[1])[:40]!r}")
        made = pair[0] + pair[1].removeprefix(marker)
        for token in (*pair, made):
            if token not in vocabulary:
                raise _unsound(path, f"merge {number} needs {token[:40]!r}, which is no token")
