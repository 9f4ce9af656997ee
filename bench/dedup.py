"""Near-duplicate search alone against datasketch: signatures, candidates and (ours) verification, on the same texts.

Call: python bench/dedup.py --pages FOLDER --peer-python VENV/bin/python

Texts are the `raw` column of FOLDER's Parquet files. Both use runs of five words and 125 permutations; datasketch's
`MinHash.update_batch` and `MinHashLSH` at the same threshold, which does not compare its candidates. CPU time.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from chatwright.data.duplicates.minhash import band_hashes
from chatwright.data.duplicates.pairs import ShingleFile, candidate_pairs, find_copies
from chatwright.data.duplicates.shingles import shingles, word_hashes

BANDS, ROWS, THRESHOLD, WORDS = 25, 5, 0.7, 5
_PEER = """
import json, re, sys, time
import pyarrow.parquet as pq
from datasketch import MinHash, MinHashLSH
texts = pq.read_table(sys.argv[1])["text"].to_pylist()
began = time.process_time()
lsh = MinHashLSH(threshold=%f, num_perm=%d, params=(%d, %d))
candidates = 0
for number, text in enumerate(texts):
    words = re.findall(r"\\w+", text.lower())
    grams = {" ".join(words[i:i + %d]).encode() for i in range(max(1, len(words) - %d))}
    sketch = MinHash(num_perm=%d)
    sketch.update_batch(grams)
    candidates += len(lsh.query(sketch))
    lsh.insert(number, sketch)
print(json.dumps({"seconds": time.process_time() - began, "candidates": candidates}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--peer-python", type=Path, required=True, help="python of a venv with datasketch, pyarrow")
    parser.add_argument("--every", type=int, default=8, help="only every n-th page")
    options = parser.parse_args()
    files = sorted(options.pages.glob("*.parquet"))
    texts = [text for path in files for text in pq.read_table(path, columns=["raw"])["raw"].to_pylist()]
    texts = texts[:: options.every]
    size = sum(len(text.encode()) for text in texts) / 1e6
    with tempfile.TemporaryDirectory() as scratch:
        ours = measure_ours(texts, Path(scratch))
        theirs = measure_theirs(texts, options.peer_python, Path(scratch))
    print(f"{len(texts)} texts, {size:.1f} MB")
    for name, found in (("chatwright", ours), ("datasketch", theirs)):
        print(f"{name:12}{found['seconds']:8.2f} s{size / found['seconds']:8.1f} MB/s  {found}")
    print(f"ratio: {theirs['seconds'] / ours['seconds']:.1f}")


def measure_ours(texts: list[str], scratch: Path) -> dict[str, float]:
    word_hashes("tables are made at the first call")
    began = time.process_time()
    sets = [shingles(word_hashes(text), size=WORDS) for text in texts]
    ranks = np.array([number for number, values in enumerate(sets) if len(values)])
    bands = np.stack([band_hashes(sets[rank], bands=BANDS, rows=ROWS) for rank in ranks])
    pairs = candidate_pairs((bands[:, band], ranks) for band in range(BANDS))
    chosen = ShingleFile(scratch / "shingles")
    chosen.fill((int(rank), sets[rank]) for rank in pairs.members())
    found = find_copies(pairs, chosen, threshold=THRESHOLD)
    seconds = time.process_time() - began
    return {"seconds": seconds, "candidates": found.candidates, "compared": found.compared, "copies": len(found.copies)}


def measure_theirs(texts: list[str], python: Path, scratch: Path) -> dict[str, float]:
    import pyarrow as pa

    pq.write_table(pa.table({"text": texts}), scratch / "texts.parquet")
    script = _PEER % (THRESHOLD, BANDS * ROWS, BANDS, ROWS, WORDS, WORDS - 1, BANDS * ROWS)
    output = subprocess.run(
        [str(python), "-c", script, str(scratch / "texts.parquet")], check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, float] = json.loads(output)
    return found


if __name__ == "__main__":
    main()
