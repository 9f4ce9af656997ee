"""What a reader of a format gives for each text it finds."""

from typing import NamedTuple

from chatwright.data.document import TEXT


class Record(NamedTuple):
    """One text in a file. `place` names it within the file, empty where the file is one text."""

    text: str
    place: str = ""
    title: str = ""
    media: str = TEXT
    language: str = ""
