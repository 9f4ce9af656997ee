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
MAX_METADATA_CHARACTERS: Final = 2_048  # of a title, a licence and the like: longer ones are cut, addresses left out
MAX_TEXT_FILE_BYTES: Final = 64 * MIB  # txt, md, rst, after decompression
TEXT_PIECE_BYTES: Final = 100_000  # of a text that is read in pieces: from here on a blank line ends one
MAX_TEXT_PIECE_BYTES: Final = 1 * MIB  # and here the last line does
MAX_HTML_BYTES: Final = 32 * MIB
MAX_SOURCE_FILE_BYTES: Final = 4 * MIB  # a Python module
MAX_BOOK_FILE_BYTES: Final = 512 * MIB  # PDF or EPUB as stored
ENCODING_SAMPLE_BYTES: Final = 256 * KIB  # what the guess of an encoding looks at; of a stream, its beginning

# JSON Lines.
MAX_LINE_BYTES: Final = 64 * MIB
MAX_JSON_DEPTH: Final = 64

# Compression: a file may give this many times its stored size, and always the floor. Beyond the size that follows it,
# no more than texts are ever packed: archives of crawls give five times their gigabyte, bombs a thousand times.
MAX_COMPRESSION_RATIO: Final = 100
MAX_UNPACKED_BYTES: Final = 2 * GIB
PLAUSIBLE_COMPRESSION_RATIO: Final = 20
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
SANDBOX_REPLY_BYTES: Final = 4 * MAX_DOCUMENT_CHARACTERS + 64 * MIB  # a longest document, and what is said of it
BOOK_TIME_LIMIT_S: Final = 120.0

# Work between two places where a stage can stop, and what one row group holds in memory.
PARTITION_BYTES: Final = 16 * MIB
PARTITION_INPUTS: Final = 1_000
PYTHON_PARTITION_BYTES: Final = 6 * MIB  # parsing a module costs ten times its reading
ROW_GROUP_BYTES: Final = 4 * MIB
ROW_GROUP_DOCUMENTS: Final = 1_000
PART_BYTES: Final = 128 * MIB
MAX_ROW_GROUP_BYTES: Final = 1 * GIB  # of a Parquet file from outside, as its footer says

# Crawling: one request.
CONNECT_TIME_LIMIT_S: Final = 10.0  # for the name, and for the connection with its handshake
FETCH_TIME_LIMIT_S: Final = 30.0  # from the name to the last byte
MAX_RESPONSE_HEADER_BYTES: Final = 64 * KIB
MAX_RESPONSE_BYTES: Final = 32 * MIB  # as stored and as decompressed
MAX_REDIRECTS: Final = 5

# Crawling: addresses and links.
MAX_URL_CHARACTERS: Final = 2_048
MAX_URL_SEGMENTS: Final = 32
MAX_QUERY_FIELDS: Final = 16
MAX_SEGMENT_REPEATS: Final = 3  # `/a/b/a/b/a/b` is a trap
MAX_LINKS_PER_PAGE: Final = 10_000
LINKS_TIME_LIMIT_S: Final = 10.0

# Crawling: what a site says of itself.
MAX_ROBOTS_BYTES: Final = 512 * KIB  # RFC 9309, 2.5: at least 500 KiB are parsed
ROBOTS_FRESH_S: Final = 86_400  # RFC 9309, 2.4: at most a day
MAX_TDMREP_BYTES: Final = 1 * MIB
MAX_SITEMAP_BYTES: Final = 50 * MIB  # sitemaps.org
MAX_SITEMAP_URLS: Final = 50_000
MAX_SITEMAPS: Final = 1_000  # of a crawl

# Crawling: patience with a host.
FETCH_ATTEMPTS: Final = 3
RETRY_BASE_S: Final = 5.0  # doubled with each attempt, and up to that much more by chance
MAX_RETRY_AFTER_S: Final = 3_600.0
MAX_CRAWL_DELAY_S: Final = 300.0
HOST_FAILURES: Final = 5  # pages in a row that failed on all attempts: the rest of the host is left
