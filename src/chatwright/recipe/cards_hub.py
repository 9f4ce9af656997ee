"""What the heads of cards say in the words of the Hugging Face hub: licences, languages, sizes, data sets.

See "Model Cards" and "Dataset Cards" of the hub's documentation.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from chatwright.data.document import UNKNOWN_LICENCE
from chatwright.recipe.report.facts import RunFacts
from chatwright.recipe.report.models import Base

OTHER = "other"
# Of the hub's list, those that documents, code and open models come with; in its spelling.
_LICENCES = frozenset(
    (
        *("cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-2.0"),
        *("cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0"),
        *("cc-by-nc-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "gfdl"),
        *("odbl", "odc-by", "pddl", "agpl-3.0", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0"),
        *("epl-2.0", "eupl-1.2", "gpl-2.0", "gpl-3.0", "isc", "lgpl-2.1", "lgpl-3.0", "mit", "mpl-2.0", "ms-pl"),
        *("unlicense", "wtfpl", "zlib", "bigscience-openrail-m", "gemma", "llama2", "llama3", "llama3.1", "llama3.2"),
        *("llama3.3", "openrail"),
    )
)
_SAME = {"odc-by-1.0": "odc-by", "odbl-1.0": "odbl", "pddl-1.0": "pddl", "gfdl-1.3": "gfdl", "gfdl-1.2": "gfdl"}
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_LICENCE_LINE = re.compile(r"^license: *[\"']?([A-Za-z0-9._-]+)[\"']? *$", re.MULTILINE)
_HEAD_BYTES = 1 << 16


def licence_id(label: str) -> str:
    """The hub's word for a licence by its SPDX name; `other` for one that the hub does not list."""
    folded = re.sub(r"-(only|or-later)$", "", label.strip().lower())
    folded = _SAME.get(folded, folded)
    return folded if folded in _LICENCES or folded == UNKNOWN_LICENCE else OTHER


def licences_of_data(labels: Sequence[str]) -> str | list[str]:
    """Every licence of the documents, one alone as it is."""
    found = list(dict.fromkeys(map(licence_id, labels))) or [UNKNOWN_LICENCE]
    return found[0] if len(found) == 1 else found


def licence_of_model(labels: Iterable[str]) -> dict[str, str]:
    """The one licence of all that the model was made of; `other` where there are several, `unknown` where one is.

    Args:
        labels: licences of documents and of the base.
    """
    listed = [(licence_id(label), label) for label in labels]
    names = {label if found == OTHER else found for found, label in listed} or {UNKNOWN_LICENCE}
    if UNKNOWN_LICENCE in names:
        return {"license": UNKNOWN_LICENCE}
    if len(names) > 1:
        return {"license": OTHER, "license_name": "several"}
    (name,) = names
    return {"license": name} if name in _LICENCES else {"license": OTHER, "license_name": name}


def licence_of_base(base: Base) -> str:
    """What the card beside a base says of its licence."""
    path = Path(base.path) / "README.md"
    if not path.is_file():
        return UNKNOWN_LICENCE
    with path.open("rb") as file:
        text = file.read(_HEAD_BYTES).decode(errors="replace")
    begin, _, rest = text.partition("---\n")
    found = _LICENCE_LINE.search(rest.partition("\n---")[0]) if not begin.strip() else None
    return found[1] if found else UNKNOWN_LICENCE


def languages(labels: Iterable[str]) -> list[str]:
    """Those that are codes of languages; a document may say anything."""
    return [label for label in labels if label != "und" and _LANGUAGE.fullmatch(label)]


def size_categories(number: int) -> list[str]:
    """The hub's class for a number of documents and conversations."""
    limits = [10 ** (3 + place) for place in range(len(_SIZES))]
    place = sum(number >= limit for limit in limits)
    if place == 0:
        return [f"n<{_SIZES[0]}"]
    return [f"n>{_SIZES[-1]}"] if place == len(_SIZES) else [f"{_SIZES[place - 1]}<n<{_SIZES[place]}"]


def datasets(run: RunFacts) -> list[str]:
    """Data sets of the hub that the run read."""
    stage = run.stages.get("documents")
    sources: list[dict[str, Any]] = (stage.config.get("sources") if stage is not None else None) or []
    return list(dict.fromkeys(str(one["dataset"]) for one in sources if one.get("kind") == "hub" and "dataset" in one))
