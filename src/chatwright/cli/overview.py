"""What `chatwright --help` shows: every command in one line, under what a person wants; examples in each one's help.

What commands do and take is said by their functions.
"""

from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.models import CommandInfo, TyperInfo

from chatwright.foundation.console import say
from chatwright.foundation.errors import ExitCode

_BEGIN = "Begin, run, and see what happened"
_STAGES = "One stage of a recipe, and those before it"
_USE = "Talk with a model, serve it, give it away"
_MEASURE = "Measure and compare"
_PEOPLE = "Learn from conversations and from people"
_BEYOND = "Beyond this machine"


class Entry(NamedTuple):
    """A command in the list of all."""

    name: str
    panel: str
    line: str
    examples: tuple[str, ...]


ENTRIES = (
    Entry("demo", _BEGIN, "The whole life in some minutes, then a page to chat with", ("demo",)),
    Entry("new", _BEGIN, "A folder with a commented recipe for your documents", ("new my-model",)),
    Entry(
        "plan",
        _BEGIN,
        "What to train on this machine, in this time, on this text",
        ("plan --budget 10m --documents ~/books", "plan --run runs/my-model --budget 2h --write planned.toml"),
    ),
    Entry(
        "run",
        _BEGIN,
        "Do a recipe; again: only what changed, or what was left",
        ("run my-model/recipe.toml --dry-run", "run my-model/recipe.toml --set pretrain.steps=500"),
    ),
    Entry("watch", _BEGIN, "Curves and time left of a training while it runs", ("watch runs/my-model",)),
    Entry(
        "report",
        _BEGIN,
        "A run as one page that opens offline; several side by side",
        ("report runs/my-model", "report runs/my-model runs/wider"),
    ),
    Entry("collect", _STAGES, "Gather the documents of the recipe's sources", ("collect my-model/recipe.toml",)),
    Entry("clean", _STAGES, "Clean, filter, deduplicate and split them", ("clean my-model/recipe.toml",)),
    Entry("tokenize", _STAGES, "Learn the tokenizer, encode the corpus", ("tokenize my-model/recipe.toml",)),
    Entry("pretrain", _STAGES, "Train the base model", ("pretrain my-model/recipe.toml",)),
    Entry(
        "finetune",
        _STAGES,
        "Teach a model your answers; or MODEL DATA without a recipe",
        ("finetune my-model/recipe.toml", "finetune models/Qwen3-0.6B tickets.csv"),
    ),
    Entry("align", _STAGES, "Learn what people prefer", ("align my-model/recipe.toml",)),
    Entry("reward", _STAGES, "Learn to tell which answers people prefer", ("reward my-model/recipe.toml",)),
    Entry(
        "distill",
        _STAGES,
        "A small model learns from a large one",
        ("distill models/Qwen3-0.6B --params 30M --data ~/books", "distill my-model/recipe.toml"),
    ),
    Entry(
        "evaluate",
        _STAGES,
        "Score the recipe's models; or MODEL on files of yours",
        (
            "evaluate my-model/recipe.toml",
            "evaluate runs/my-model/finetune/model --answers test.csv",
            "evaluate models/Qwen3-0.6B --texts ~/books --html hardest.html",
        ),
    ),
    Entry("chat", _USE, "Talk with a model in the terminal", ("chat runs/my-model/finetune/model",)),
    Entry(
        "generate",
        _USE,
        "Continue a text",
        ('generate runs/my-model/pretrain/model "It was" --max-tokens 40 --seed 1',),
    ),
    Entry(
        "serve",
        _USE,
        "The chat page and an OpenAI-compatible API on one port",
        ("serve runs/my-model/finetune/model", "serve runs/my-model/finetune/model --with models/Qwen3-0.6B"),
    ),
    Entry("import", _USE, "Check a Hugging Face model and take it in", ("import ~/downloads/Qwen3-0.6B",)),
    Entry(
        "export",
        _USE,
        "Write a model for transformers, vLLM or llama.cpp",
        ("export runs/my-model/finetune/model --to gguf",),
    ),
    Entry(
        "adapter",
        _USE,
        "Merge adapters, take them out, PEFT's format",
        ("adapter show runs/my-model/finetune/adapter",),
    ),
    Entry(
        "compare",
        _MEASURE,
        "Models on the same data, and which differences count",
        ("compare runs/my-model/pretrain/model runs/my-model/finetune/model",),
    ),
    Entry(
        "rate",
        _MEASURE,
        "A page on which people judge answers, blind",
        ("rate runs/my-model", "rate runs/my-model --pairs --store duel.sqlite", "rate runs/my-model --stats"),
    ),
    Entry("weak", _MEASURE, "Where a run is weak, and what to change", ("weak runs/my-model",)),
    Entry(
        "lineage",
        _MEASURE,
        "From a model back to its documents, and the other way",
        (
            "lineage runs/my-model/finetune/model",
            "lineage runs/my-model/finetune/model --document ~/books/emma.epub",
        ),
    ),
    Entry(
        "tokenizer",
        _MEASURE,
        "What a tokenizer makes of texts",
        ("tokenizer stats runs/my-model/tokenizer runs/my-model/corpus",),
    ),
    Entry("card", _MEASURE, "Model cards and the data card of a run", ("card runs/my-model",)),
    Entry(
        "pairs",
        _PEOPLE,
        "Questions and answers from documents, by their headings",
        ("pairs ~/handbook --out pairs.jsonl",),
    ),
    Entry(
        "feedback",
        _PEOPLE,
        "What people said on the chat page, as data",
        ("feedback stats", "feedback export --rated-only"),
    ),
    Entry(
        "preferences",
        _PEOPLE,
        "Preference data from feedback, with a data card",
        ("preferences chatwright-feedback.db preferred",),
    ),
    Entry(
        "improve",
        _PEOPLE,
        "The next model from what people said, if it wins",
        ("improve runs/my-model --dry-run", "improve runs/my-model"),
    ),
    Entry(
        "shards",
        _BEYOND,
        "What each of many devices would hold and send",
        ("shards 7b --on h100x8 --recompute",),
    ),
)
_PLACES = {entry.name: place for place, entry in enumerate(ENTRIES)}


class Commands(TyperGroup):
    """All commands in the order of the table. The library alone would end a Ctrl-C with the code of a failure."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, those of the table first."""
        return sorted(super().list_commands(ctx), key=lambda name: _PLACES.get(name, len(_PLACES)))

    def invoke(self, ctx: Any) -> Any:
        """Run the command of this call."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("stopped")
            raise typer.Exit(ExitCode.STOPPED) from None


def put_in_order(app: typer.Typer) -> None:
    """Give every command its panel, its line and its examples.

    Raises:
        LookupError: a command is missing in the table.
    """
    by_name = {entry.name: entry for entry in ENTRIES}
    registered: list[CommandInfo | TyperInfo] = [*app.registered_commands, *app.registered_groups]
    for info in registered:
        entry = by_name[str(info.name or getattr(info.callback, "__name__", ""))]
        info.rich_help_panel, info.short_help = entry.panel, entry.line
        info.epilog = "\n".join(["Examples:", *(f"  chatwright {example}" for example in entry.examples)])
