"""Settings of the search for duplicates, with the reasons of their defaults."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from chatwright.data.duplicates.minhash import found_with
from chatwright.foundation.config import Config

_LEAST_FOUND = 0.9
_MAX_PERMUTATIONS = 1024


class DuplicatesConfig(Config):
    """Near duplicates over the whole corpus. Exact ones, whatever the case and the white space, always go."""

    near: Literal["drop", "mark", "off"] = "drop"  # mark: copies stay under their cluster's id, in one split
    threshold: float = Field(default=0.7, gt=0, le=1)  # Jaccard similarity of shingle sets from which one is a copy
    shingle_words: int = Field(default=5, ge=1, le=50)  # 5: FineWeb (Penedo et al. 2024, section 3.4)
    bands: int = Field(default=25, ge=1)  # with 5 rows, 99 of 100 pairs at the threshold become candidates;
    rows: int = Field(default=5, ge=1)  # FineWeb's 14 bands of 8 find 56 of 100 at 0.7 and 92 at 0.8

    def problems(self) -> Iterator[str]:
        """Bands that would miss what the threshold asks for."""
        if self.bands * self.rows > _MAX_PERMUTATIONS:
            yield f"`bands` times `rows` must not exceed {_MAX_PERMUTATIONS}: {self.bands * self.rows}"
        found = found_with(self.threshold, bands=self.bands, rows=self.rows)
        if found < _LEAST_FOUND:
            yield (
                f"{self.bands} bands of {self.rows} rows find only {found:.0%} of pairs at `threshold` "
                f"{self.threshold:g}: raise `bands`, or lower `rows`"
            )
