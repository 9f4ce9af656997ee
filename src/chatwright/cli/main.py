"""The command `chatwright`. Each command parses, calls and renders; nothing is decided here.

What needs PyTorch is imported inside the commands, so that help and small commands answer at once.
"""

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import chatwright
from chatwright.cli import (
    adapters,
    cards,
    compare,
    evaluate,
    exchange,
    feedback,
    finetune,
    improve,
    improving,
    rate,
    report,
    running,
    sharded,
    tokenizer,
    watch,
    weak,
)
from chatwright.cli import plan as plan_command
from chatwright.cli.options import AsJson, ModelPath, Overrides
from chatwright.cli.overview import Commands, put_in_order
from chatwright.foundation.console import out, say
from chatwright.foundation.errors import ChatwrightError, ExitCode, StoppedError, UsageError

if TYPE_CHECKING:
    from chatwright.model.engine.engine import EngineSettings


app = typer.Typer(
    cls=Commands,
    epilog="New here: `chatwright demo` shows everything; `chatwright new DIR` begins with your documents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
DEFAULT_STORE = "chatwright-feedback.db"


def _tell_version(is_asked: bool) -> None:  # noqa: FBT001 - the library calls it by position
    if is_asked:
        out(f"chatwright {chatwright.__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="print the version and end", callback=_tell_version, is_eager=True)
]


@app.callback()
def everything(version: Version = False) -> None:  # noqa: ARG001, FBT002 - answered by its callback
    """From raw documents to a chat model of your own, and better from the people who use it."""


@app.command()
def demo(
    overrides: Overrides = None,
    as_json: AsJson = False,
    port: Annotated[int, typer.Option(help="of the chat page")] = 8000,
) -> None:
    """The whole life on documents this machine already has, then the chat page."""
    path = _demo_recipe()
    say("chatwright demo: documents of this Python installation -> a small chat model of the help desk of a shop")
    say(f"  recipe: {path}; about ten minutes on two cores; stop with Ctrl-C, the same command goes on\n")
    run_dir = running.do_recipe(path, overrides, as_json=as_json)
    model = run_dir / "finetune" / "model"
    say(f"\nThe report: {run_dir / 'report.html'}")
    if sys.stdout.isatty() and not as_json and "CI" not in os.environ:
        say("The chat page opens below; Ctrl-C ends it.")
        _serve(model, port=port)
    else:
        say(f"To talk with it:  .venv/bin/chatwright serve {model}     (or `chat` for the terminal)")


def _demo_recipe() -> Path:
    """The demo's recipe in the current folder or in the checkout that this package was installed from."""
    for folder in (Path.cwd(), Path(__file__).resolve().parents[3]):
        if (folder / "recipes" / "demo.toml").is_file():
            return folder / "recipes" / "demo.toml"
    raise UsageError(
        "the demo's recipe `recipes/demo.toml` is not here",
        hint="run the command inside a clone of the project, or begin your own with `chatwright new DIR`",
    )


running.register(app)
finetune.register(app)
evaluate.register(app)
rate.register(app)
compare.register(app)
weak.register(app)


@app.command()
def new(
    directory: Annotated[Path, typer.Argument(help="a folder that is not there yet, or empty", metavar="DIR")],
) -> None:
    """A commented recipe for your documents."""
    from chatwright.recipe.starter import write_starter

    out(write_starter(directory))


def _above_zero(value: float) -> float:
    if value <= 0:
        raise typer.BadParameter("must be above 0")
    return value


Temperature = Annotated[float, typer.Option(min=0.0, max=2.0, help="0: always the likeliest token; more: more varied")]
MaxTokens = Annotated[int, typer.Option(min=1, max=32768, help="at most so many are written")]
Quantize = Annotated[
    Literal["int8"] | None,
    typer.Option(help="matrices as whole numbers of 8 bits: a quarter of the reading, for small losses (CPU)"),
]


@app.command()
def chat(
    model: ModelPath,
    temperature: Temperature = 0.0,
    max_tokens: MaxTokens = 256,
    seed: Annotated[int | None, typer.Option(help="for answers that can be repeated")] = None,
    quantize: Quantize = None,
) -> None:
    """Talk with a model in the terminal."""
    from chatwright.model.chat import load
    from chatwright.model.generation import Sampling
    from chatwright.serve.terminal import chat_in_terminal

    _settle_cpu()
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed)
    opened = load(model, settings=_engine_settings(quantize))
    chat_in_terminal(opened, sampling=sampling, stdin=sys.stdin, stdout=sys.stdout)


@app.command()
def generate(  # noqa: PLR0917 - the library calls it by keyword
    model: ModelPath,
    prompt: Annotated[str, typer.Argument(help="the beginning of a text", metavar="PROMPT")],
    temperature: Temperature = 0.7,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, callback=_above_zero, help="only the likeliest tokens of so much share")
    ] = 0.95,
    max_tokens: MaxTokens = 128,
    seed: Annotated[int | None, typer.Option(help="for text that can be repeated")] = None,
    quantize: Quantize = None,
    as_json: AsJson = False,
) -> None:
    """Continue a text."""
    from chatwright.model.chat import load
    from chatwright.model.generation import Sampling

    _settle_cpu()
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    text = load(model, settings=_engine_settings(quantize)).generate(prompt, sampling)
    if as_json:
        typer.echo(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False))
    else:
        out(prompt + text)


@app.command()
def serve(  # noqa: PLR0917 - the library calls it by keyword
    model: Annotated[
        Path, typer.Argument(help="a model directory, or a run: then what `improve` put into service", metavar="MODEL")
    ],
    other: Annotated[
        Path | None, typer.Option("--with", help="a second model, for blind comparisons side by side", metavar="OTHER")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8000,
    store: Annotated[
        str, typer.Option(help="where answers and ratings are kept: a file or database URL")
    ] = DEFAULT_STORE,
    allowed_hosts: Annotated[
        list[str] | None, typer.Option("--allow-host", help="a further name under which this server is called")
    ] = None,
    guests: Annotated[
        Path | None, typer.Option(help="file with a line `name token`, or `name token expert`, for each guest")
    ] = None,
    quantize: Quantize = None,
) -> None:
    """OpenAI-compatible API and the chat page on one port. A token is read from `CHATWRIGHT_TOKEN`."""
    _serve(
        model,
        other=other,
        host=host,
        port=port,
        store=store,
        allowed_hosts=allowed_hosts or (),
        guests=guests,
        quantize=quantize,
    )


def _serve(
    model: Path,
    *,
    other: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    store: str = DEFAULT_STORE,
    allowed_hosts: Sequence[str] = (),
    guests: Path | None = None,
    quantize: Literal["int8"] | None = None,
) -> None:
    from chatwright.cli import served
    from chatwright.model.generation import Sampling
    from chatwright.recipe.recipe import serve_section_of
    from chatwright.serve.server import serve as serve_models
    from chatwright.serve.settings import PageText, read_guests, settings_for

    _settle_cpu()
    section = serve_section_of(served.model_of(model))
    let_in = read_guests(guests) if guests is not None else None
    settings = settings_for(
        host,
        token=os.environ.get("CHATWRIGHT_TOKEN") or None,
        guests=let_in and let_in.tokens,
        experts=let_in.experts if let_in else frozenset(),
        allowed_hosts=allowed_hosts,
        sampling=Sampling(temperature=section.temperature, max_tokens=section.max_tokens),
        page=PageText(title=section.title, greeting=section.greeting, starters=section.starters),
    )
    places = [model] if other is None else [model, other]
    reload = partial(served.open_models, places, settings=_engine_settings(quantize))
    watched = served.watched_file(model)
    serve_models(reload(), settings, store_url=store, host=host, port=port, reload=reload, watched=watched)


def _engine_settings(quantize: Literal["int8"] | None) -> "EngineSettings":
    from chatwright.model.engine.engine import EngineSettings

    return EngineSettings(weights=quantize or "float32", frees_network=True)


def _settle_cpu() -> None:
    from chatwright.foundation.devices import place

    place(precision="float32", keeps_freed_memory=False)


@app.command()
def lineage(
    model: ModelPath,
    document: Annotated[
        str | None, typer.Option(help="an id, a path or a URL: where it stands, and which models saw it")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The chain from a model back to its documents, or from one document to every shard and model that saw it."""
    from chatwright.recipe.lineage import as_lines, lineage_of

    if document is not None:
        from chatwright.recipe import sightings

        found = sightings.trace(model, document)
        out(json.dumps(found, indent=2) if as_json else "\n".join(sightings.as_lines(found)))
        return
    chain = lineage_of(model)
    out(json.dumps(chain, indent=2) if as_json else "\n".join(as_lines(chain)))


exchange.register(app)
adapters.register(app)
improving.register(app)
improve.register(app, default_store=DEFAULT_STORE)
tokenizer.register(app)
plan_command.register(app)
cards.register(app)
feedback.register(app, default_store=DEFAULT_STORE)
watch.register(app)
sharded.register(app)
report.register(app)
put_in_order(app)


def main() -> None:
    """Run a command; errors a person can mend are shown without a traceback, with the exit code of their class."""
    try:
        app(prog_name="chatwright")
    except ChatwrightError as error:
        say(f"{error}" if isinstance(error, StoppedError) else f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:  # a name that is a folder, or that may not be written; ours have none
        if error.filename is None:
            raise
        say(f"error: `{error.filename2 or error.filename}`: {error.strerror}")
        sys.exit(ExitCode.FAILED)
