"""Counting what became of documents: kept, changed, dropped, each drop with its reason and examples.

Tallies of partitions merge in the partitions' order, so a report does not depend on who was faster.
"""

import dataclasses
from typing import Any

from chatwright.data.document import Document

MAX_EXAMPLES = 5
_MAX_DETAIL_CHARACTERS = 200


@dataclasses.dataclass(slots=True)
class Tally:
    """What happened to the documents of one partition, or of all."""

    documents: int = 0
    characters: int = 0
    dropped: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    changed: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def seen(self, characters: int) -> None:
        """Count one document that came in."""
        self.documents += 1
        self.characters += characters

    def drop(self, reason: str, *, path: str, detail: str = "", id: str = "", characters: int = 0) -> None:
        """Count one document, file or line that does not go on."""
        entry = self.dropped.setdefault(reason, {"count": 0, "characters": 0, "examples": []})
        entry["count"] += 1
        entry["characters"] += characters
        if len(entry["examples"]) < MAX_EXAMPLES:
            shown = _printable(detail)[:_MAX_DETAIL_CHARACTERS]
            entry["examples"].append({"id": id, "path": _printable(path), "detail": shown})

    def change(self, name: str, count: int = 1) -> None:
        """Count one document in which `count` places were changed."""
        entry = self.changed.setdefault(name, {"documents": 0, "places": 0})
        entry["documents"] += 1
        entry["places"] += count

    def show_change(self, name: str, *, path: str, detail: str) -> None:
        """Keep a place that was changed as an example, unless there are enough, or the same words are one already."""
        examples = self.changed[name].setdefault("examples", [])
        shown = {"path": _printable(path), "detail": _printable(detail)[:_MAX_DETAIL_CHARACTERS]}
        if len(examples) < MAX_EXAMPLES and all(shown["detail"] != other["detail"] for other in examples):
            examples.append(shown)

    def merge(self, other: "Tally") -> None:
        """Add what another tally counted after this one."""
        self.documents += other.documents
        self.characters += other.characters
        for reason, theirs in other.dropped.items():
            entry = self.dropped.setdefault(reason, {"count": 0, "characters": 0, "examples": []})
            entry["count"] += theirs["count"]
            entry["characters"] += theirs["characters"]
            entry["examples"] = [*entry["examples"], *theirs["examples"]][:MAX_EXAMPLES]
        for name, counts in other.changed.items():
            mine = self.changed.setdefault(name, {"documents": 0, "places": 0})
            for key in ("documents", "places"):
                mine[key] += counts[key]
            for example in counts.get("examples", ()):
                self.show_change(name, **example)

    def drops_by_count(self) -> dict[str, dict[str, Any]]:
        """Drops with the most frequent reason first."""
        return dict(sorted(self.dropped.items(), key=lambda item: (-item[1]["count"], item[0])))


class Totals:
    """Documents and UTF-8 bytes by domain, or by any other label, held-out ones beside."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}

    def add(self, label: str, document: Document) -> None:
        """Count one kept document."""
        size = len(document.text.encode())
        entry = self._counts.setdefault(label, {"documents": 0, "bytes": 0, "heldout_documents": 0, "heldout_bytes": 0})
        entry["documents"] += 1
        entry["bytes"] += size
        if document.split == "heldout":
            entry["heldout_documents"] += 1
            entry["heldout_bytes"] += size

    def __getitem__(self, key: str) -> int:
        """The sum of one count over all labels."""
        return sum(entry[key] for entry in self._counts.values())

    def to_json(self, *, with_heldout: bool = True) -> dict[str, dict[str, int]]:
        """Counts by label in alphabetical order."""
        return {
            label: {key: value for key, value in entry.items() if with_heldout or not key.startswith("heldout")}
            for label, entry in sorted(self._counts.items())
        }


def describe_drops(tally: Tally, *, of: str) -> list[str]:
    """Lines for the person: each reason with its count and its first example."""
    lines = []
    for reason, entry in tally.drops_by_count().items():
        first = entry["examples"][0]
        detail = f": {first['detail']}" if first["detail"] else ""
        lines.append(f"    {entry['count']:>7,} {of} dropped, {reason} (such as `{first['path']}`{detail})")
    return lines


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
