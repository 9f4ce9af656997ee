"""One model on files that somebody names: measured, and kept as a record. The recipe's stage is `stage`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.evaluate import perplexity
from chatwright.evaluate.answers import Answered, ask, references_by_label, score
from chatwright.evaluate.harness import TaskOptions, harness_figures, run_tasks
from chatwright.evaluate.perplexity import TextLoss, Windows
from chatwright.evaluate.records import model_facts, new_record
from chatwright.evaluate.resampling import RESAMPLES
from chatwright.evaluate.tasks import read_task, run_task, task_figures
from chatwright.evaluate.texts import read_texts
from chatwright.feedback.conversations import read_conversations
from chatwright.foundation.errors import UsageError
from chatwright.foundation.storage import digest_file, digest_json
from chatwright.model.chat import ChatModel

_SAMPLES = 20  # items answered wrongly that a record keeps


class _Tasks(NamedTuple):
    """What came of some tasks, each under its name."""

    figures: dict[str, Any]
    digests: dict[str, str]
    wrong: dict[str, list[dict[str, Any]]]


class MeasuredTexts(NamedTuple):
    """A record, and the losses it was made of."""

    record: dict[str, Any]
    losses: list[TextLoss]


def measure_texts(
    model: ChatModel,
    path: Path,
    *,
    model_path: Path,
    windows: Windows,
    text_key: str = "text",
    split: str | None = None,
    num_worst: int = 10,
    seed: int = 1,
) -> MeasuredTexts:
    """Perplexity and bits per byte of texts, by domain and with intervals; the hardest documents and passages.

    Args:
        model: what is measured.
        path: a file, a folder or a corpus directory.
        model_path: where the model stands, for the record.
        windows: context and stride.
        text_key: key or column of the text.
        split: of a corpus directory, the split to measure.
        num_worst: hardest documents and passages to keep.
        seed: of the bootstrap.

    Raises:
        DataError: nothing to measure, or a damaged file.
    """
    texts = read_texts(path, text_key=text_key, split=split)
    losses = perplexity.text_losses(model, texts.texts, windows=windows)
    record = new_record(
        "texts",
        model=model_facts(model, model_path),
        data={"path": str(path), "digest": texts.digest, "split": split, "empty_documents": texts.num_empty},
        settings={**windows._asdict(), "seed": seed, "resamples": RESAMPLES, "text_key": text_key},
        result={
            "domains": perplexity.by_domain(losses, seed=seed),
            "worst_documents": perplexity.worst_documents(losses, count=num_worst),
            "worst_spans": perplexity.worst_spans(losses, model.tokenizer, count=num_worst),
        },
    )
    return MeasuredTexts(record, losses)


def measure_tasks(
    model: ChatModel, names: Sequence[str], *, model_path: Path, options: TaskOptions | None = None
) -> dict[str, Any]:
    """Own tasks (names that end in `.jsonl`) and tasks of lm-evaluation-harness, as one record.

    Args:
        model: what is measured.
        names: files and names of tasks.
        model_path: where the model stands, for the record.
        options: how tasks are run.

    Raises:
        UsageError: no task, one that is not known, or the harness is missing.
        DataError: a task file is unsound.
    """
    if not names:
        raise UsageError("no task was named", hint="for example `--tasks questions.jsonl`")
    asked = options or TaskOptions()
    own = _own_tasks(model, [name for name in names if name.endswith(".jsonl")], asked)
    shared = _shared_tasks(model, [name for name in names if not name.endswith(".jsonl")], asked)
    digests = own.digests | shared.digests
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asked._asdict().items()}
    return new_record(
        "tasks",
        model=model_facts(model, model_path),
        data={"path": ",".join(names), "digest": digest_json(digests), "tasks": digests},
        settings={**settings, "generation": {"temperature": 0, "max_tokens": asked.max_tokens}},
        result={"tasks": own.figures | shared.figures, "wrong": own.wrong},
    )


def _own_tasks(model: ChatModel, files: Sequence[str], options: TaskOptions) -> _Tasks:
    """Tasks of files, and the first items of each that were answered wrongly."""
    done = _Tasks({}, {}, {})
    for file in files:
        task = read_task(Path(file))
        if task.name in done.figures:
            raise UsageError(f"two task files are called `{task.name}`", hint="rename one")
        outcomes = run_task(model, task, max_tokens=options.max_tokens)
        wrong = [outcome for outcome in outcomes if outcome.score < 1][:_SAMPLES]
        done.figures[task.name], done.digests[task.name] = task_figures(outcomes), task.digest
        done.wrong[task.name] = [
            {"asked": outcome.item.asked, "answer": outcome.answer, "score": outcome.score} for outcome in wrong
        ]
    return done


def _shared_tasks(model: ChatModel, names: Sequence[str], options: TaskOptions) -> _Tasks:
    """Tasks of lm-evaluation-harness."""
    if not names:
        return _Tasks({}, {}, {})
    found = run_tasks(model, names, options=options)
    digests = {name: str(value) for name, value in (found.get("task_hashes") or {}).items()}
    return _Tasks(harness_figures(found), digests, {})


def measure_answers(
    model: ChatModel, path: Path, *, model_path: Path, max_tokens: int, beams: int = 1
) -> dict[str, Any]:
    """Answers to conversations against their last turns, as a record with every answer in it.

    Args:
        model: what is measured.
        path: conversations, whose last answer is the reference; those with `references` have several.
        model_path: where the model stands, for the record.
        max_tokens: of an answer.
        beams: 1 for greedy answers, more for beam search.
    """
    conversations = read_conversations(path)
    answered = ask(model, conversations, max_tokens=max_tokens, beams=beams)
    result = score(answered, references_by_label(conversations))
    result["given"] = [_given(item) for item in answered]
    return new_record(
        "answers",
        model=model_facts(model, model_path),
        data={"path": str(path), "digest": digest_file(path)},
        settings={"generation": {"temperature": 0, "beams": beams, "max_tokens": max_tokens}},
        result=result,
    )


def _given(item: Answered) -> dict[str, Any]:
    told: dict[str, Any] = {"question": item.question, "answer": item.answer, "reference": item.reference}
    more = item.conversation.more_references
    return {**told, "more_references": list(more)} if more else told
