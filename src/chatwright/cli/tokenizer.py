"""`chatwright tokenizer ...`: what a tokenizer makes of texts. Learning one is the recipe's work."""

import json
from pathlib import Path
from typing import Annotated

import typer

from chatwright.cli.options import AsJson
from chatwright.foundation.console import say
from chatwright.foundation.errors import UsageError

tokenizer_app = typer.Typer(help="What a tokenizer makes of texts.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    app.add_typer(tokenizer_app, name="tokenizer")


@tokenizer_app.command("stats")
def stats(
    tokenizer: Annotated[str, typer.Argument(help="a folder with `tokenizer.json`", metavar="TOKENIZER")],
    corpus: Annotated[Path, typer.Argument(help="a corpus (RUN/corpus), or a text file", metavar="TEXTS")],
    others: Annotated[
        list[str] | None,
        typer.Option("--beside", help="another to compare with: a folder, or a name in Hugging Face's local cache"),
    ] = None,
    documents: Annotated[int, typer.Option(help="at most so many documents, held-out ones first", min=1)] = 1000,
    as_json: AsJson = False,
) -> None:
    """Bytes per token by domain and language, vocabulary in use, digits and spaces, beside other tokenizers.

    GPT-2's stands beside it where Hugging Face's cache on this machine has it. Nothing is fetched.
    """
    from chatwright.tokens.statistics import as_lines, measure, sample_texts
    from chatwright.tokens.tokenizer import load_tokenizer

    places = _places([tokenizer, *(others or [])])
    texts = sample_texts(corpus, documents=documents)
    found = {name: measure(load_tokenizer(place), texts) for name, place in places.items()}
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(as_lines(found)))


def _places(names: list[str]) -> dict[str, Path]:
    """Where the tokenizers lie, and GPT-2's if it is here."""
    from chatwright.tokens.statistics import GPT2, cached_tokenizer

    places: dict[str, Path] = {}
    for name in names:
        place = Path(name) if Path(name).exists() else cached_tokenizer(name)
        if place is None:
            raise UsageError(
                f"there is no tokenizer `{name}` on this machine",
                hint="name a folder with `tokenizer.json`, or fetch it first: `hf download NAME tokenizer.json`",
            )
        places[name] = place
    known = {name: place for name in GPT2 if (place := cached_tokenizer(name)) is not None}
    if not known and len(names) == 1:
        say("GPT-2's tokenizer is not in Hugging Face's cache on this machine; `--beside DIR` compares with any other")
    if known and not set(known.values()) & set(places.values()):
        places.update([known.popitem()])
    return places
