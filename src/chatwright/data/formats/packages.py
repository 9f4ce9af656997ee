"""Documents that are zip packages of XML (EPUB, DOCX): members read within limits, XML without entities.

These functions run in a sandbox: their input may hang or crash a parser.
"""

import zipfile
import zlib
from xml.etree import ElementTree  # noqa: S405 - entity declarations are refused before parsing

from chatwright.data import limits
from chatwright.data.sandbox import Unreadable


class Package:
    """Members of a zip file, counted as they are read.

    Args:
        file: open.
        damaged: the reason under which a broken package is counted.
    """

    def __init__(self, file: zipfile.ZipFile, *, damaged: str):
        self._file = file
        self._damaged = damaged
        self._left = limits.MAX_ARCHIVE_BYTES
        if len(file.namelist()) > limits.MAX_ARCHIVE_MEMBERS:
            raise Unreadable("too_many_members", f"{len(file.namelist())}")

    def read(self, name: str) -> bytes:
        """One member's bytes, whatever size its header claims."""
        try:
            info = self._file.getinfo(name)
            if info.flag_bits & 1:
                raise Unreadable("encrypted", name)
            allowed = max(limits.COMPRESSION_FLOOR_BYTES, info.compress_size * limits.MAX_COMPRESSION_RATIO)
            allowed = min(allowed, limits.MAX_ARCHIVE_MEMBER_BYTES, self._left)
            with self._file.open(info) as member:
                data = member.read(allowed + 1)
        except KeyError:
            raise Unreadable(self._damaged, f"`{name}` is missing") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            raise Unreadable(self._damaged, f"`{name}`: {error}") from None
        self._left -= min(len(data), allowed)
        if len(data) > allowed:
            raise Unreadable("compression_ratio", f"`{name}` gives more than {allowed} bytes")
        return data


def parse_xml(data: bytes, name: str, *, damaged: str) -> "ElementTree.Element":
    """The root of an XML document that declares no entities."""
    if b"<!ENTITY" in data or b"<\0!\0E\0N" in data or b"\0<\0!\0E\0N" in data:
        raise Unreadable(damaged, f"`{name}` declares entities")
    try:
        return ElementTree.fromstring(data)  # noqa: S314 - no entities, and sizes are limited
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise Unreadable(damaged, f"`{name}`: {error}") from None


def local_name(node: "ElementTree.Element") -> str:
    """An element's name without its namespace."""
    return str(node.tag).rsplit("}", 1)[-1]


def first_text(root: "ElementTree.Element", tag: str) -> str:
    """Text of the first element of a name, empty if there is none."""
    return next(((node.text or "").strip() for node in root.iter() if local_name(node) == tag), "")
