"""The one table of limits for documents from outside: sizes, ratios, depths, counts and times.

Whatever meets a limit is dropped under a reason of its own and counted. The thresholds of quality are not here:
they are settings of the cleaning stage.
"""

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

# One document, one file.
MAX_DOCUMENT_CHARACTERS: Final = 64 * MIB
MAX_TEXT_FILE_BYTES: Final = 64 * MIB  # txt, md, rst, after decompression
MAX_HTML_BYTES: Final = 32 * MIB
MAX_SOURCE_FILE_BYTES: Final = 4 * MIB  # a Python module
MAX_BOOK_FILE_BYTES: Final = 512 * MIB  # PDF or EPUB as stored
ENCODING_SAMPLE_BYTES: Final = 256 * KIB  # what the guess of an encoding looks at

# JSON Lines.
MAX_LINE_BYTES: Final = 64 * MIB
MAX_JSON_DEPTH: Final = 64

# Compression: a gzip stream may give this many times its stored size, and always the floor.
MAX_COMPRESSION_RATIO: Final = 100
COMPRESSION_FLOOR_BYTES: Final = 1 * MIB

MAX_XZ_MEMORY_BYTES: Final = 128 * MIB  # of the decoder; `xz -9` needs 65 MiB

# Archives of documents. What they give in all is limited by the ratio above; nothing is held but one member.
MAX_ARCHIVE_DEPTH: Final = 2  # an archive within an archive
MAX_CORPUS_ARCHIVE_MEMBERS: Final = 1_000_000
MAX_ARCHIVE_DIRECTORY_BYTES: Final = 64 * MIB  # of a zip, which is read whole
MAX_TAR_HEADER_BYTES: Final = 1 * MIB

MAX_WIKI_PAGE_BYTES: Final = 32 * MIB
WIKI_RANGE_BYTES: Final = 32 * MIB  # of a packed dump: five to seven times as much text
WIKITEXT_TIME_LIMIT_S: Final = 20.0
MAX_WARC_HEADER_BYTES: Final = 256 * KIB

# EPUB: sizes count what is read, never what the archive says of itself.
MAX_ARCHIVE_MEMBERS: Final = 10_000
MAX_ARCHIVE_MEMBER_BYTES: Final = 32 * MIB
MAX_ARCHIVE_BYTES: Final = 256 * MIB

# PDF.
MAX_PDF_PAGES: Final = 10_000

# The child that reads what could hang or crash a process.
SANDBOX_MEMORY_BYTES: Final = 3 * GIB
SANDBOX_START_S: Final = 60.0
SANDBOX_GRACE_S: Final = 5.0
BOOK_TIME_LIMIT_S: Final = 120.0

# Work between two places where a stage can stop, and what one row group holds in memory.
PARTITION_BYTES: Final = 16 * MIB
PARTITION_INPUTS: Final = 1_000
PYTHON_PARTITION_BYTES: Final = 6 * MIB  # parsing a module costs ten times its reading
ROW_GROUP_BYTES: Final = 4 * MIB
ROW_GROUP_DOCUMENTS: Final = 1_000
PART_BYTES: Final = 128 * MIB
MAX_ROW_GROUP_BYTES: Final = 1 * GIB  # of a Parquet file from outside, as its footer says
