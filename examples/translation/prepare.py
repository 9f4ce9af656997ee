"""Make what `recipes/translation.toml` reads from line-aligned files: `prepare.py FOLDER SOURCE TARGET [OUTPUT]`.

FOLDER holds `train.SOURCE.gz`, `train.TARGET.gz` and the same for `val` and `test_2016_flickr` (Multi30k's names; plain
text without `.gz` is read as well). OUTPUT, by default `data` beside this file, gets `train.tsv`, `val.tsv`, `test.tsv`
with the columns `source` and `target`, and `documents/` with the training text of both languages for the tokenizer.
"""

import gzip
import sys
from pathlib import Path

SPLITS = {"train": "train", "val": "val", "test": "test_2016_flickr"}
LINES_A_DOCUMENT = 400


def main() -> None:
    """Read, check and write."""
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    folder, source, target = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    output = Path(sys.argv[4]) if len(sys.argv) == 5 else Path(__file__).parent / "data"
    (output / "documents").mkdir(parents=True, exist_ok=True)
    for name, stem in SPLITS.items():
        ours, theirs = lines_of(folder, f"{stem}.{source}"), lines_of(folder, f"{stem}.{target}")
        if len(ours) != len(theirs):
            sys.exit(f"error: {stem} has {len(ours)} lines of {source} and {len(theirs)} of {target}")
        pairs = [(one, other) for one, other in zip(ours, theirs, strict=True) if one and other]
        rows = ["source\ttarget", *("\t".join(pair) for pair in pairs)]
        (output / f"{name}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        sys.stderr.write(f"{name}: {len(pairs)} pairs, {len(ours) - len(pairs)} left out because one side is empty\n")
        if name == "train":
            write_documents(output / "documents", {source: [p[0] for p in pairs], target: [p[1] for p in pairs]})


def lines_of(folder: Path, name: str) -> list[str]:
    """Lines without tabs and space around."""
    packed = folder / f"{name}.gz"
    data = gzip.decompress(packed.read_bytes()) if packed.is_file() else (folder / name).read_bytes()
    return [" ".join(line.split()) for line in data.decode("utf-8").splitlines()]


def write_documents(folder: Path, texts: dict[str, list[str]]) -> None:
    """A few hundred sentences a file."""
    for language, lines in texts.items():
        for number, start in enumerate(range(0, len(lines), LINES_A_DOCUMENT)):
            part = "\n".join(lines[start : start + LINES_A_DOCUMENT])
            (folder / f"{language}-{number:04}.txt").write_text(part + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
