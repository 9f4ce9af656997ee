"""What a reader of a format gives for each text it finds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from chatwright.data.decode import Decoded
from chatwright.data.document import TEXT
from chatwright.data.licences import recognise
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable

# Columns of tables and keys of JSON Lines that are taken beside the text, where they hold strings.
COLUMNS = ("title", "language", "url", "licence", "license")
ALLOWED = "allowed"
DISALLOWED = "disallowed"


class Record(NamedTuple):
    """One text in a file. `place` names it within the file, empty where the file is one text."""

    text: str
    place: str = ""
    title: str = ""
    media: str = TEXT
    language: str = ""
    url: str = ""
    fetched: str = ""
    licence: str = ""
    licence_evidence: str = ""
    robots: str = ""  # of a page: DISALLOWED, ALLOWED where its robots tags allow it, or empty: they say nothing
    tdm: str = ""
    tdm_evidence: str = ""  # where a reservation stands


def record_of_row(text: str, values: Mapping[str, Any], place: str) -> Record:
    """A row's text with what its other columns say of it."""
    named = {name: values[name] for name in COLUMNS if isinstance(values.get(name), str)}
    column = "licence" if named.get("licence") else "license"
    said = named.get(column, "").strip()
    return Record(
        text,
        place,
        named.get("title", ""),
        language=named.get("language", ""),
        url=named.get("url", ""),
        licence=recognise(said) or said,
        licence_evidence=f"column `{column}`: {said}" if said else "",
    )


def counted(decoded: Decoded | None, tally: Tally) -> str:
    """The text, with what decoding changed counted.

    Raises:
        Unreadable: it is no text.
    """
    if decoded is None:
        raise Unreadable("undecodable", "it is not text in any known encoding")
    for name, count in decoded.changes.items():
        tally.change(name, count)
    return decoded.text
