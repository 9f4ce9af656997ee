"""Partitions for the tests of the engine: they must be at module level, since processes import them."""

import os
import time
from pathlib import Path

from chatwright.data.document import DOCUMENTS_SCHEMA, Document
from chatwright.data.engine import work_file
from chatwright.data.report import Tally
from chatwright.foundation.errors import RefusedError, UnreachableError

_TEXT = "The boats come in with the tide. "


def write_one(payload, path):
    """Write one document; what the payload begins with says what goes wrong before."""
    kind, mark = payload
    attempts = Path(mark)
    with attempts.open("a") as file:
        file.write("x")
    number = len(attempts.read_text())
    if kind == "fails" or (kind == "fails once" and number == 1):
        raise ValueError(f"attempt {number}")
    if kind == "dies" or (kind == "dies once" and number == 1):
        time.sleep(0.05)  # lets the others of the pool begin
        os._exit(9)
    if kind == "unreachable" or (kind == "unreachable once" and number == 1):
        raise UnreachableError("no answer", cause="status 503")
    if kind == "refused":
        raise RefusedError("damaged input")
    if kind == "elsewhere":
        os.chdir("/")  # as a worker of another machine may stand elsewhere
    tally = Tally()
    with work_file(path, DOCUMENTS_SCHEMA, tally) as writer:
        tally.seen(len(_TEXT))
        writer.add(Document(id=attempts.name, text=_TEXT, source="s", path=attempts.name, domain="d"))
        if kind == "hangs":
            Path(f"{mark}.hangs").touch()
            ends = time.monotonic() + 60
            while not Path(f"{mark}.go").exists() and time.monotonic() < ends:
                time.sleep(0.02)
            Path(f"{mark}.ended").touch()
