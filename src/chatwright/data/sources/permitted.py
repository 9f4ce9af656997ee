"""What a source does with pages whose owners reserve mining or ask not to be indexed: as the source `website` does.

The verdicts come with the records: `formats.pages` reads them. Files that are no pages say nothing of the kind.
"""

from collections.abc import Iterator
from typing import Literal

from chatwright.data.crawl.rights import RESERVED
from chatwright.data.formats.record import DISALLOWED, Record
from chatwright.data.report import Tally
from chatwright.foundation.config import Config


class Permitted(Config):
    """A source that may hold pages of others."""

    reserved: Literal["drop", "keep"] = "drop"  # pages whose owner reserves text and data mining
    noindex: Literal["drop", "keep"] = "drop"  # pages that ask not to be indexed


def permitted(config: Permitted, records: Iterator[Record], tally: Tally, *, shown: str) -> Iterator[Record]:
    """Records that may be taken; the others are counted under `noindex` and `tdm_reserved`.

    Args:
        config: what is dropped.
        records: of one file.
        tally: counts what is dropped.
        shown: the file's name in the report.
    """
    for record in records:
        if config.noindex == "drop" and record.robots == DISALLOWED:
            reason, detail = "noindex", record.url
        elif config.reserved == "drop" and record.tdm == RESERVED:
            reason, detail = "tdm_reserved", f"{record.url} {record.tdm_evidence}"
        else:
            yield record
            continue
        place = record.place if record.place.startswith("!/") else f"#{record.place}" if record.place else ""
        tally.drop(reason, path=f"{shown}{place}", detail=detail.strip(), characters=len(record.text))
