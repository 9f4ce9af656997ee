"""Books as chapters, prepared by the normal stages: what the studies of curricula and of distillation train on.

A book is one document to the pipeline; its chapters, taken as pages, give scores that differ and a split with enough
documents in it. Not a benchmark.
"""

import zipfile
from pathlib import Path

from chatwright.data.collect import CollectConfig
from chatwright.foundation.config import validate
from chatwright.recipe.recipe import Recipe
from chatwright.recipe.runner import run_recipe
from chatwright.tokens.shards import INDEX, ShardWriter, TextScores, TokenData, write_index
from chatwright.tokens.tokenizer import TokenizerConfig, load_tokenizer

VOCABULARY = 2048
SAMPLE = 300  # tokens of each held-out chapter, so that all books are measured in little time
SHORTEST_CHAPTER = 4000  # bytes of markup; title pages and licences are below
_APPARATUS = ("imprint", "colophon", "uncopyright", "titlepage", "halftitle", "toc", "endnotes", "loi", "glossary")


def prepare(books: Path, work: Path) -> Path:
    """Collect, clean and tokenize the chapters of all EPUB files in `books`; returns the run's directory."""
    chapters = work / "chapters"
    if not chapters.is_dir():
        unpack(books, chapters)
    recipe = Recipe(
        name="books",
        runs=str(work),
        workers=1,
        collect=validate(CollectConfig, {"sources": [{"kind": "files", "path": str(chapters)}]}, where="books"),
        tokenizer=TokenizerConfig(vocabulary_size=VOCABULARY),
    )
    run_recipe(recipe, until="tokenize")
    return recipe.run_dir


def unpack(books: Path, chapters: Path) -> None:
    """Write each chapter of each EPUB as a page."""
    files = sorted(books.glob("*.epub"))
    if not files:
        raise SystemExit(f"there is no EPUB file in `{books}`")
    partial = chapters.with_name(".chapters")
    for book in files:
        folder = partial / book.stem
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(book) as archive:
            for member in archive.infolist():
                name = Path(member.filename).name
                is_text = name.endswith(".xhtml") and member.file_size >= SHORTEST_CHAPTER
                if is_text and not name.startswith(_APPARATUS):
                    (folder / name.replace(".xhtml", ".html")).write_bytes(archive.read(member))
    partial.rename(chapters)


def study_tokens(run: Path, target: Path, *, stored: int | None = None) -> Path:
    """The run's tokens with what a study needs: a sample of every held-out chapter, and perhaps less to train on.

    Args:
        run: a directory that `prepare` made.
        target: where the shards go; what is there already is kept.
        stored: about so many training tokens, in whole chapters evenly over the corpus; None keeps all.
    """
    if (target / INDEX).is_file():
        return target
    target.mkdir(parents=True, exist_ok=True)
    data, tokenizer = TokenData(run / "tokens"), load_tokenizer(run / "tokenizer")
    shards = {}
    for split in ("train", "heldout"):
        stream = data.split(split)
        writer = ShardWriter(vocabulary_size=data.vocabulary_size, end_of_text=tokenizer.end_of_text)
        columns = [stream.scores(name) for name in TextScores._fields]
        share = 1.0 if stored is None or split == "heldout" else stored / len(stream)
        for document in stream.documents():
            if int(document.number * share) == int((document.number + 1) * share):
                continue
            ids = document.ids.tolist()[: SAMPLE if split == "heldout" else None]
            size = document.num_bytes if split == "train" else len(tokenizer.decode(ids).encode())
            scores = TextScores(*(float(column[document.number]) for column in columns))
            writer.add(ids, domain=data.domains.index(document.domain), num_bytes=size, scores=scores)
        shards[split] = [writer.save(target / f"{split}-00000")]
    domains = list(data.domains)
    write_index(target, shards, tokenizer=data.tokenizer_digest, vocabulary=data.vocabulary_size, domains=domains)
    return target
