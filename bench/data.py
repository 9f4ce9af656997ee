"""Extract, repair, judge, sign, drop copies, tokenize and write: ours against datatrove, on the same raw pages.

Call: python bench/data.py --pages FOLDER --peer-python VENV/bin/python

FOLDER holds Parquet files with the columns `id`, `kind` (html or text) and `raw`. Four runs on two processes each, one
after the other: our stages `corpus` and `tokens`; datatrove's executor calling our functions; the same calling what
people take for these steps (resiliparse, ftfy, Hugging Face tokenizers; our rules and MinHash); datatrove with its own
blocks (trafilatura, ftfy, its Gopher and C4 filters, its MinHash signatures, its tokenizer step) on a share of the
pages. Wall time with start-up; memory is the largest sum of resident sizes of a run, seen ten times a second.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from chatwright.data import clean_stage
from chatwright.data.clean import CleanConfig, quality_of, text_hash
from chatwright.data.document import DOCUMENTS_SCHEMA, Document, PartWriter
from chatwright.data.duplicates.corpus import bands_of
from chatwright.data.duplicates.shingles import word_hashes
from chatwright.data.extract import EXTRACTORS
from chatwright.data.normalise import normalise
from chatwright.data.rules import first_verdict
from chatwright.data.rules_base import Shape
from chatwright.data.scores import score
from chatwright.foundation.stage import StageContext
from chatwright.tokens import stages as tokens
from chatwright.tokens.tokenizer import Tokenizer, TokenizerConfig, load_tokenizer, train_tokenizer

WORKERS = 2
PEER = Path(__file__).with_name("_datatrove.py")


class Measured(NamedTuple):
    """One run."""

    name: str
    pages: int
    wall_s: float
    peak_mb: float
    result: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--peer-python", type=Path, required=True, help="python of a venv with datatrove")
    parser.add_argument("--every", type=int, default=1, help="only every n-th page")
    parser.add_argument("--own-blocks-every", type=int, default=8, help="of these, for datatrove's own blocks")
    parser.add_argument("--extractor", default="resiliparse", choices=sorted(EXTRACTORS))
    parser.add_argument("--ours", type=Path, help="internal: run our stages in this folder")
    options = parser.parse_args()
    if options.ours:
        run_ours(options.ours, options.extractor)
        return
    with tempfile.TemporaryDirectory() as scratch:
        compare(options, Path(scratch))


def compare(options: argparse.Namespace, scratch: Path) -> None:
    pages = read_pages(options.pages)[:: options.every]
    size = sum(len(page["raw"].encode()) for page in pages)
    print(f"{len(pages)} pages, {size / 1e6:.0f} MB raw; extractor: {options.extractor}", flush=True)
    write_pages(pages, scratch / "documents")
    write_pages(pages[:: options.own_blocks_every], scratch / "some")
    learn_tokenizer(pages, scratch / "tokenizer")
    own = [sys.executable, __file__, "--ours", str(scratch), "--pages", ".", "--peer-python", "."]
    theirs = [str(options.peer_python), str(PEER), str(scratch), options.extractor]
    rows = [
        measure("chatwright", own + ["--extractor", options.extractor], len(pages), scratch),
        measure("datatrove's executor, our steps", [*theirs, "steps"], len(pages), scratch),
        measure("datatrove's executor, others' steps", [*theirs, "field"], len(pages), scratch),
        measure("datatrove's own blocks", [*theirs, "blocks"], len(pages[:: options.own_blocks_every]), scratch),
    ]
    print(f"{'run':34}{'pages':>7}{'wall s':>8}{'pages/s':>9}{'ours over it':>14}{'peak MB':>9}  kept, tokens")
    rate = rows[0].pages / rows[0].wall_s
    for row in rows:
        ratio = rate / (row.pages / row.wall_s)
        shown = f"{row.name:34}{row.pages:>7}{row.wall_s:>8.1f}{row.pages / row.wall_s:>9.1f}{ratio:>14.2f}"
        print(f"{shown}{row.peak_mb:>9.0f}  {row.result}")
    for name, seconds in steps_of(pages[:: max(1, len(pages) // 1500)], options.extractor, scratch).most_common():
        print(f"    {name:12}{seconds:8.2f} ms of CPU a page")


def read_pages(folder: Path) -> list[dict[str, str]]:
    columns = ["id", "kind", "raw"]
    return [
        row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path, columns=columns).to_pylist()
    ]


def write_pages(pages: list[dict[str, str]], folder: Path) -> None:
    """As parts of raw documents, and with the columns that datatrove's reader takes."""
    folder.mkdir()
    for index in range(8):
        rows = [{"id": page["id"], "text": page["raw"], "kind": page["kind"]} for page in pages[index::8]]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"peer-{index}.parquet", row_group_size=200)
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(PartWriter(folder / f"part-{index:05d}.parquet", DOCUMENTS_SCHEMA))
            for index in range(8)
        ]
        for number, page in enumerate(pages):
            document = Document(
                id=f"{number:016x}", text=page["raw"], source="bench", path=page["id"], domain="web", media=page["kind"]
            )
            writers[number % len(writers)].add(document)


def learn_tokenizer(pages: list[dict[str, str]], folder: Path) -> None:
    folder.mkdir()
    texts = (page["raw"] for page in pages[::20])
    train_tokenizer(texts, TokenizerConfig(vocabulary_size=16_384, max_training_bytes=8 << 20)).save(folder)


def run_ours(folder: Path, extractor: str) -> None:
    corpus, shards = folder / "corpus", folder / "tokens"
    corpus.mkdir()
    shards.mkdir()
    config = CleanConfig(html_extractor=extractor)  # type: ignore[arg-type]
    inputs = {"documents": folder / "documents"}
    summary = clean_stage.run(StageContext(config=config, inputs=inputs, output=corpus, seed=0, workers=WORKERS))
    inputs = {"corpus": corpus, "tokenizer": folder / "tokenizer"}
    encoded = tokens.run_tokens(StageContext(config=None, inputs=inputs, output=shards, seed=0, workers=WORKERS))
    number = sum(encoded[split]["tokens"] for split in ("train", "heldout"))
    print(json.dumps({"kept": summary["documents_out"], "tokens": number}))


def measure(name: str, command: list[str], pages: int, scratch: Path) -> Measured:
    log = scratch / "log.txt"
    source = Path(clean_stage.__file__).parents[2]
    environment = {"PYTHONPATH": str(source), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        peak = [0.0]
        watcher = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
        watcher.start()
        output, _ = process.communicate()
    seconds = time.monotonic() - began
    if process.returncode:
        raise SystemExit(f"{name} failed:\n{log.read_text()[-3000:]}")
    result = json.loads(output.decode().strip().splitlines()[-1])
    print(f"  {name}: {seconds:.1f} s", flush=True)
    return Measured(name, pages, seconds, peak[0], result)


def _watch(root: int, peak: list[float]) -> None:
    while True:
        with contextlib.suppress(OSError, ValueError):
            peak[0] = max(peak[0], sum(_resident_mb(pid) for pid in _tree(root)))
        time.sleep(0.1)


def _tree(root: int) -> Iterator[int]:
    yield root
    for task in Path(f"/proc/{root}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _tree(int(child))


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def steps_of(pages: list[dict[str, str]], extractor: str, scratch: Path) -> Counter[str]:
    """Milliseconds of CPU a page by step, all steps in this process; what asking for the time costs is taken off."""
    config, tokenizer = CleanConfig(), load_tokenizer(scratch / "tokenizer")
    spent: Counter[str] = Counter()

    began = time.process_time()
    for _ in range(1000):
        time.process_time()
    asking = (time.process_time() - began) / 1000

    def timed(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        began = time.process_time()
        value = function(*arguments)
        spent[name] += (time.process_time() - began - asking) * 1e3 / len(pages)
        return value

    table = pa.Table.from_pylist([{"text": page["raw"]} for page in pages])
    timed("write", lambda: pq.write_table(table, scratch / "written.parquet", compression="zstd"))
    for page in pages:
        text = page["raw"]
        if page["kind"] == "html":
            text = timed("extract", EXTRACTORS[extractor], text)["text"]
        text = timed("repair", normalise, text).text
        if text:
            _time_rest(timed, text, config, tokenizer)
    return spent


def _time_rest(timed: Callable[..., Any], text: str, config: CleanConfig, tokenizer: Tokenizer) -> None:
    shape = Shape(text)
    if timed("quality", first_verdict, shape, config.rules) is not None:
        return
    timed("quality", quality_of, shape)
    timed("scores", score, text, shape.words)
    timed("hash", text_hash, text)
    timed("minhash", bands_of, timed("minhash", word_hashes, text), config.duplicates)
    timed("tokenize", tokenizer.encode, text)


if __name__ == "__main__":
    main()
