"""`chatwright tokenizer ...`: what a tokenizer makes of texts. Learning one is the recipe's work."""

import json
from pathlib import Path
from typing import Annotated

import typer

tokenizer_app = typer.Typer(help="What a tokenizer makes of texts.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    app.add_typer(tokenizer_app, name="tokenizer")


@tokenizer_app.command("stats")
def stats(
    tokenizer: Annotated[Path, typer.Argument(help="a folder with `tokenizer.json`", metavar="TOKENIZER")],
    corpus: Annotated[Path, typer.Argument(help="a corpus (RUN/corpus), or a text file", metavar="TEXTS")],
    others: Annotated[list[Path] | None, typer.Option("--beside", help="another tokenizer to compare with")] = None,
    documents: Annotated[int, typer.Option(help="at most so many documents, held-out ones first", min=1)] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="print the result for machines")] = False,
) -> None:
    """Bytes per token by domain, vocabulary in use, and the longest tokens, beside other tokenizers."""
    from chatwright.tokens.statistics import as_lines, measure, sample_texts
    from chatwright.tokens.tokenizer import load_tokenizer

    texts = sample_texts(corpus, documents=documents)
    found = {str(path): measure(load_tokenizer(path), texts) for path in [tokenizer, *(others or [])]}
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(as_lines(found)))
