"""`generation_config.json`: how a model's makers say that it is to be asked. Kept for other programs, not used here."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError
from chatwright.model.foreign import require_own_file

GENERATION_CONFIG = "generation_config.json"
_MAX_BYTES = 1 << 20

# What transformers and vLLM take from it, each with the types that it may have; all else is left out.
_KNOWN: dict[str, tuple[type, ...]] = {
    "do_sample": (bool,),
    "temperature": (int, float),
    "top_k": (int,),
    "top_p": (int, float),
    "min_p": (int, float),
    "repetition_penalty": (int, float),
    "max_new_tokens": (int,),
}
_ENDS = "eos_token_id"
_IDS = ("bos_token_id", _ENDS, "pad_token_id")


def generation_config(theirs: Mapping[str, Any], *, begin: int, ends: Sequence[int], pad: int) -> dict[str, Any]:
    """What is written beside a model.

    Args:
        theirs: what `read_generation_config` found; nothing of a model that was made here, which is asked greedily.
        begin: the id before a text.
        ends: ids that end an answer; theirs are added.
        pad: the id that fills rows.
    """
    told = {"bos_token_id": begin, _ENDS: list(ends), "pad_token_id": pad, "do_sample": False} | dict(theirs)
    return told | {_ENDS: list(dict.fromkeys([*ends, *theirs.get(_ENDS, [])]))}


def read_generation_config(directory: Path, *, vocabulary_size: int) -> dict[str, Any]:
    """What a model directory says that is known here; empty where it has no such file. Ids that end are a list.

    Ids outside of the vocabulary are left out: no model can write them, and some files say -1 for "none".

    Raises:
        RefusedError: the file is damaged, or a value is not of its type; all are listed.
    """
    path = directory / GENERATION_CONFIG
    require_own_file(path)
    if not path.is_file():
        return {}
    value = storage.read_json(path, max_bytes=_MAX_BYTES)
    if not isinstance(value, dict):
        raise RefusedError(f"`{path}` is not an object", hint="copy it again, or delete it")
    told = {name: value[name] for name in (*_IDS, *_KNOWN) if value.get(name) is not None}
    wrong = [f"`{name}`: {str(item)[:40]}" for name, item in told.items() if not _is_sound(name, item)]
    if wrong:
        raise RefusedError(f"`{path}` has values of a wrong type: {'; '.join(wrong)}", hint="mend it, or delete it")
    for name in _IDS:
        ids = [number for number in _as_list(told.pop(name, [])) if 0 <= number < vocabulary_size]
        if ids:
            told[name] = ids if name == _ENDS else ids[0]
    return told


def _is_sound(name: str, value: Any) -> bool:
    if name in _IDS:
        return all(type(number) is int for number in (_as_list(value) if name == _ENDS else [value]))
    return type(value) in _KNOWN[name] and math.isfinite(value)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
