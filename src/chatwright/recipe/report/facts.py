"""What the stages of a run left behind, read for people: manifests, reports, metrics, scores. Nothing is measured here.

Every file but the manifests may be missing: a run need not have every stage.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatwright.foundation import storage
from chatwright.foundation.errors import UsageError
from chatwright.foundation.masking import without_secrets

# In the order of a model's life. A tuple of its own, because the table of stages needs PyTorch to import.
STAGE_NAMES = (
    *("documents", "corpus", "tokenizer", "tokens", "pretrain", "finetune"),
    *("reward", "align", "distill", "evaluate"),
)
TRAININGS = ("pretrain", "finetune", "reward", "align", "distill")  # of these; all ranks join them
RECIPE = "recipe.toml"
WORK = ".work"  # where what is not published stands: of a stage `STAGE-KEY`, of a round `ROUND_WORK` and its number
ROUND_WORK = "improve-"
FORGETTING_ALLOWED = 0.05  # bits per byte of the base's documents; more is explained
RATINGS = "ratings.sqlite"  # the study of `chatwright rate`
# Stages that make a model which is measured, in the order of its life, and what people call it.
MODEL_NAMES = {
    "pretrain": "base model",
    "finetune": "fine-tuned model",
    "align": "aligned model",
    "distill": "distilled model",
}


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """One published stage."""

    name: str
    directory: Path
    content: str  # digest of its files
    facts: dict[str, Any]  # what the recipe wrote into the manifest

    @property
    def summary(self) -> dict[str, Any]:
        """What the stage's `run` returned."""
        value: dict[str, Any] = self.facts.get("summary") or {}
        return value

    @property
    def config(self) -> dict[str, Any]:
        """The stage's own section, every default written out; what earlier versions kept of passwords is left out."""
        value: dict[str, Any] = without_secrets(self.facts.get("config") or {})
        return value

    @property
    def inputs(self) -> dict[str, dict[str, str]]:
        """What it was made from: name -> `path` and `content`."""
        value: dict[str, dict[str, str]] = self.facts.get("inputs") or {}
        return value

    @property
    def is_chat(self) -> bool:
        """Whether its model has learned turns of a conversation; a student has where it was given conversations."""
        return self.name in ("finetune", "align") or (self.name == "distill" and bool(self.config.get("data")))

    @property
    def seconds(self) -> float:
        """Wall time of the call that finished it."""
        return float(self.facts.get("seconds") or 0.0)

    @property
    def peak_memory_bytes(self) -> int:
        """Largest resident size of the process up to the stage's end."""
        return int(self.facts.get("peak_memory_bytes") or 0)

    def read(self, name: str) -> dict[str, Any]:
        """A JSON object the stage left, or an empty one."""
        path = self.directory / name
        value = storage.read_json(path) if path.is_file() else {}
        return value if isinstance(value, dict) else {}

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Lines of `metrics.jsonl` of one kind: `step`, `evaluation` or `skipped`."""
        return [line for line in storage.read_lines(self.directory / "metrics.jsonl") if line.get("event") == kind]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The published stages of a run, in their order."""

    directory: Path
    stages: dict[str, StageFacts]

    @property
    def name(self) -> str:
        """The run's name, as its recipe gave it."""
        named = [stage.facts.get("run") for stage in self.stages.values()]
        return str(next((name for name in named if name), self.directory.resolve().name))

    def read(self, stage: str, name: str) -> dict[str, Any]:
        """A JSON object of a stage; empty if the stage or the file is missing."""
        return self.stages[stage].read(name) if stage in self.stages else {}

    def summary(self, stage: str) -> dict[str, Any]:
        """A stage's summary; empty if the stage is missing."""
        return self.stages[stage].summary if stage in self.stages else {}

    @property
    def scores(self) -> dict[str, Any]:
        """What `evaluate` measured."""
        return self.read("evaluate", "scores.json")

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """Scores by model, the base first."""
        scored = self.scores.get("models") or {}
        return {name: _as_measured(scored[name]) for name in MODEL_NAMES if name in scored}

    @property
    def has_nothing_held_out(self) -> bool:
        """Whether the run has documents of which none was held out, so that no loss of them is known."""
        held = self.summary("tokens").get("heldout") or {}
        return held.get("documents") == 0

    def chat_model(self, names: Collection[str]) -> str | None:
        """Of these models the last one that has learned to answer; where none has, the last one."""
        made = [name for name in MODEL_NAMES if name in names]
        chats = [name for name in made if name in self.stages and self.stages[name].is_chat]
        return next(reversed(chats or made), None)

    def is_right(self, model: str, item: dict[str, Any]) -> bool:
        """Whether an answer of `samples.json` is, as the model's scores were judged: by its label, or by its text."""
        by_label = "right" in self.models.get(model, {}).get("answers", {})
        if by_label and item.get("expected") is not None:
            return bool(item.get("said") == item["expected"])
        return bool(item["answer"].strip() == item["reference"].strip())


def manifest_paths(run_dir: Path) -> list[Path]:
    """The manifests of the stages that are published."""
    paths = [run_dir / name / storage.MANIFEST for name in STAGE_NAMES]
    return [path for path in paths if path.is_file()]


def read_run(run_dir: Path) -> RunFacts:
    """Read what is published of a run.

    Raises:
        UsageError: no stage of a run is there.
        RefusedError: a manifest or a report is damaged.
    """
    paths = manifest_paths(run_dir)
    if not paths:
        raise UsageError(
            f"`{run_dir}` is not a run: no stage of it is done",
            hint="name the folder of a run, such as `runs/demo`; `chatwright run RECIPE` makes one",
        )
    stages = {}
    for path in paths:
        manifest = storage.read_manifest(path.parent)
        stages[path.parent.name] = StageFacts(
            name=path.parent.name, directory=path.parent, content=manifest.content, facts=manifest.facts
        )
    return RunFacts(directory=run_dir, stages=stages)


def key_figures(run: RunFacts) -> dict[str, Any]:
    """The few numbers that describe a run; what was not measured is absent."""
    tokens = run.summary("tokens")
    figures: dict[str, Any] = {
        "documents": run.summary("corpus").get("documents_out") or run.summary("documents").get("documents"),
        "corpus_bytes": run.summary("corpus").get("bytes_out"),
        "tokens": (tokens.get("train") or {}).get("tokens"),
        "heldout_tokens": (tokens.get("heldout") or {}).get("tokens"),
        "parameters": run.summary("pretrain").get("parameters") or run.summary("finetune").get("total"),
        "trained_tokens": run.summary("pretrain").get("target_tokens"),
        "heldout_bits_per_byte": heldout_bits(run),
        "heldout_bits_per_byte_95": _heldout_intervals(run),
        "heldout_is_sample": True if heldout_bits(run) and not run.models else None,
        "baselines": run.scores.get("baselines"),
        "answers": {
            name: _answer_figures(model["answers"]) for name, model in run.models.items() if "answers" in model
        },
        "gained_bits_per_byte": _gained(run.summary("finetune")),
        "forgotten_bits_per_byte": (run.summary("finetune").get("forgetting") or {}).get("all"),
    }
    return {key: value for key, value in figures.items() if value not in (None, {})}


def has_intervals(figures: dict[str, Any]) -> bool:
    """Whether one of the key figures has its 95 % interval beside it."""
    answers = figures.get("answers", {}).values()
    return "heldout_bits_per_byte_95" in figures or any(key.endswith("_95") for values in answers for key in values)


def heldout_bits(run: RunFacts) -> dict[str, float]:
    """Bits per byte of each model on all held-out documents; without `evaluate`, on the sample of pretraining."""
    scored = {
        name: model["heldout"]["all"]["bits_per_byte"] for name, model in run.models.items() if "heldout" in model
    }
    if scored:
        return scored
    sampled = ((run.summary("pretrain").get("evaluation") or {}).get("bits_per_byte") or {}).get("all")
    return {} if sampled is None else {"pretrain": sampled}


def _heldout_intervals(run: RunFacts) -> dict[str, list[float]]:
    measured = {name: model["heldout"]["all"] for name, model in run.models.items() if "heldout" in model}
    return {name: values["bits_per_byte_95"] for name, values in measured.items() if "bits_per_byte_95" in values}


def _as_measured(model: dict[str, Any]) -> dict[str, Any]:
    """Scores of a model without figures over no documents, which former versions wrote as if they were perfect."""
    is_empty = (model.get("heldout") or {}).get("all", {}).get("documents") == 0
    return {key: value for key, value in model.items() if not (is_empty and key == "heldout")}


def _answer_figures(answers: dict[str, Any]) -> dict[str, Any]:
    wanted = ("right", "exact", "token_f1", "bleu", "chrf")
    keys = ("questions", *wanted, *(f"{key}_95" for key in wanted))
    return {key: answers[key] for key in keys if key in answers}


def _gained(finetune: dict[str, Any]) -> float | None:
    before, after = finetune.get("before") or {}, finetune.get("after") or {}
    if "test_bits_per_byte" not in before or "test_bits_per_byte" not in after:
        return None
    return round(float(before["test_bits_per_byte"]) - float(after["test_bits_per_byte"]), 5)
