"""Markdown of cards: a YAML head, tables, and text that stays text. Knows nothing of runs."""

import json
from collections.abc import Sequence
from typing import Any


def head(values: dict[str, Any]) -> str:
    """YAML between dashes. JSON's strings and lists are YAML's too, so that no name can break out of its line."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value]
    return "\n".join(["---", *lines, "---"])


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; nothing where there are no rows."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(plain(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def plain(value: Any) -> str:
    """Text that cannot become a table's edge, a tag or a new line."""
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def quoted(text: str) -> str:
    """A card of ours as a part of another one: its title left out, its headings one step lower, no tag in it."""
    lines = [line for line in text.strip().split("\n") if not line.startswith("# ")]
    lowered = [f"#{line}" if line.startswith("#") else line for line in lines]
    return "\n".join(lowered).replace("&", "&amp;").replace("<", "&lt;").strip()


def joined(parts: Sequence[str]) -> str:
    """A card of its parts; empty ones are left out."""
    return "\n\n".join(part for part in parts if part) + "\n"
