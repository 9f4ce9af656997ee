"""A model of ours for lm-evaluation-harness, and its tasks on local data without a network. Needs the extra `tasks`.

The harness decides what is asked and how it is scored; here stand only the three things a model is asked for. Rows are
sorted by length and padded little, and only scored positions cost an output projection: that is where the time of its
own `hf` model goes.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.evaluate.likelihood import Row, score_rows
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.chat import ChatModel
from chatwright.model.generation import GenerationRequest, Sampling

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ModuleNotFoundError:  # the extra is not installed; `run_tasks` says so
    TemplateLM = object
    get_rolling_token_windows = make_disjoint_window = None

_DEFAULT_NEW_TOKENS = 256  # the harness's own, where a task says nothing


class TaskOptions(NamedTuple):
    """How tasks are run."""

    max_tokens: int = 64  # of an answer, in tasks of one's own
    include: Path | None = None  # folder with the harness's task files; only these are then known
    limit: int | None = None  # items of each of the harness's tasks
    num_fewshot: int | None = None  # solved examples before each item; None: the task's own number
    cache: Path | None = None  # file for answers already given, so that a call that was stopped goes on
    uses_network: bool = False  # the harness may fetch data sets; otherwise only local files and its cache are read


def is_installed() -> bool:
    """Whether the extra is there."""
    return TemplateLM is not object


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A loaded model as the harness wants it."""

    def __init__(self, model: ChatModel):
        super().__init__()
        self._model = model
        self._length = model.context_length

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text or a turn, as the tokenizer's settings name it."""
        name = self._model.tokenizer.settings.get("eos_token")
        number = self._model.tokenizer.special(name) if isinstance(name, str) else None
        return self._model.tokenizer.end_of_text if number is None else number

    @property
    def prefix_token_id(self) -> int:
        """The id before a text that has nothing before it."""
        return self._model.tokenizer.begin_of_text

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness's cache of requests."""
        return self._model.tokenizer.digest

    @property
    def max_length(self) -> int:
        """Tokens of the context."""
        return self._length

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of plain text, after the beginning's where the tokenizer itself writes it, as the harness's own model."""
        ids = self._model.tokenizer.encode(string)
        is_begun = add_special_tokens is not False and self._model.tokenizer.writes_begin
        return [self._model.tokenizer.begin_of_text, *ids] if is_begun else ids

    def chat_template(self, chat_template: bool | str = False) -> str | None:  # noqa: ARG002
        """The name of the turn form, for the record."""
        return self._model.encoder.form.name

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:  # noqa: ARG002
        """Refused: the harness joins turns as text, and text never becomes a marker here."""
        raise UsageError("a chat template cannot be applied as text here", hint="use own tasks with `question`")

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,  # noqa: ARG002 - the signature is the harness's
        **ignored: Any,  # noqa: ARG002
    ) -> list[tuple[float, bool]]:
        rows = []
        for _, context, continuation in requests:
            if len(continuation) > self._length:
                raise UsageError(f"a continuation of {len(continuation)} tokens exceeds the context of {self._length}")
            ids = [*context, *continuation][-(self._length + 1) :]
            rows.append(Row(ids[:-1], continuation))
        results = []
        for (key, _, _), scored in zip(requests, score_rows(self._model.network, rows, with_greedy=True), strict=True):
            result = (float(scored.logprobs.sum(dtype="float64")), scored.is_greedy)
            results.append(result)
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, result)
        return results

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        """Log-likelihood of whole texts, in the harness's own windows."""
        rows: list[Row] = []
        counts = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._length,
                context_len=1,
            )
            made = [make_disjoint_window(window) for window in windows]
            rows += [Row([*context, *targets][:-1], targets) for context, targets in made]
            counts.append(len(made))
        scored = iter(score_rows(self._model.network, rows))
        totals = [sum(float(next(scored).logprobs.sum(dtype="float64")) for _ in range(count)) for count in counts]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """Continuations up to a stop text, in batches where they are greedy."""
        found: dict[int, str] = {}
        groups: dict[tuple[int, bool], list[int]] = {}
        for index, request in enumerate(requests):
            options = request.args[1]
            limit = int(options.get("max_gen_toks", _DEFAULT_NEW_TOKENS))
            if limit >= self._length:
                raise UsageError(f"a task wants {limit} new tokens, the model's context is {self._length}")
            groups.setdefault((limit, bool(options.get("do_sample", False))), []).append(index)
        for (limit, is_sampled), members in groups.items():
            write = self._sampled if is_sampled else self._greedy
            found.update(zip(members, write([requests[index] for index in members], limit), strict=True))
        for index, text in found.items():
            self.cache_hook.add_partial("generate_until", requests[index].args, text)
        return [found[index] for index in range(len(requests))]

    def _greedy(self, requests: Sequence[Any], limit: int) -> list[str]:
        sampling = Sampling(max_tokens=limit, temperature=0.0)
        return self._written(requests, [sampling] * len(requests), limit)

    def _sampled(self, requests: Sequence[Any], limit: int) -> list[str]:
        samplings = []
        for number, request in enumerate(requests):
            options = request.args[1]
            samplings.append(
                Sampling(
                    max_tokens=limit,
                    temperature=float(options.get("temperature", 1.0)),
                    top_p=float(options.get("top_p", 1.0)),
                    top_k=int(options.get("top_k", 0)),
                    seed=number,
                )
            )
        return self._written(requests, samplings, limit)

    def _written(self, requests: Sequence[Any], samplings: Sequence[Sampling], limit: int) -> list[str]:
        asked = [
            GenerationRequest(
                prompt=tuple(self._prompt(request.args[0], limit)), sampling=sampling, stop_ids=self._stop_ids()
            )
            for request, sampling in zip(requests, samplings, strict=True)
        ]
        texts = [written.text for (written,) in self._model.engine.run(asked)]
        return [_cut(text, request.args[1].get("until")) for text, request in zip(texts, requests, strict=True)]

    def _prompt(self, text: str, limit: int) -> list[int]:
        return self.tok_encode(text)[-(self._length - limit) :] or [self.prefix_token_id]

    def _stop_ids(self) -> frozenset[int]:
        return frozenset({self.eot_token_id, self._model.tokenizer.end_of_text})


def _cut(text: str, until: Any) -> str:
    for stop in [until] if isinstance(until, str) else until or []:
        if stop:
            text = text.partition(stop)[0]
    return text


def run_tasks(model: ChatModel, names: Sequence[str], *, options: TaskOptions | None = None) -> dict[str, Any]:
    """Run tasks of the harness.

    Args:
        model: what is measured.
        names: tasks or groups.
        options: how; `max_tokens` is the tasks' own affair here.

    Raises:
        UsageError: the extra is missing, or a task is not known.
        RefusedError: a task's data is not here.
    """
    asked = options or TaskOptions()
    manager = _tasks_known(names, include=asked.include, uses_network=asked.uses_network)
    from lm_eval import simple_evaluate

    with _missing_data_named():
        found: Any = simple_evaluate(
            model=HarnessModel(model),
            tasks=list(names),
            task_manager=manager,
            limit=asked.limit,
            num_fewshot=asked.num_fewshot,
            use_cache=None if asked.cache is None else str(asked.cache),
            bootstrap_iters=1_000,
            log_samples=True,
        )
    if not isinstance(found, dict):
        raise RefusedError("the harness gave no results")
    return found


@contextlib.contextmanager
def _missing_data_named() -> Iterator[None]:
    try:
        yield
    except (ConnectionError, FileNotFoundError, OSError) as error:
        raise RefusedError(
            f"the data of a task cannot be had: {error}",
            hint="name local files in the task's `data_files`, or allow the network with `--online`",
        ) from error


def _tasks_known(names: Sequence[str], *, include: Path | None, uses_network: bool) -> Any:
    """The harness's tasks, all the named ones among them. What keeps it off the network is set before it is loaded."""
    if not is_installed():
        raise UsageError("tasks of lm-evaluation-harness need an extra", hint="pip install 'chatwright[tasks]'")
    if not uses_network:
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if include is None else str(include), include_defaults=include is None)
    known = set(manager.all_tasks)
    unknown = [name for name in names if name not in known]
    if unknown:
        shown = ", ".join(sorted(known)[:10])
        raise UsageError(f"`{unknown[0]}` is no task here", hint=f"{len(known)} are known, such as {shown}")
    return manager


def harness_figures(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each task's figures: the first metric as `metric` and `value`, all of them under `all`."""
    figures = {}
    for name, values in found["results"].items():
        numbers = {key: float(value) for key, value in values.items() if isinstance(value, int | float)}
        metrics = {key: value for key, value in numbers.items() if "stderr" not in key and "," in key}
        if not metrics:
            continue
        first = next(iter(metrics))
        figures[name] = {
            "metric": first.partition(",")[0],
            "value": metrics[first],
            "items": int(found.get("n-samples", {}).get(name, {}).get("effective", 0)),
            "all": {key: value for key, value in numbers.items() if "," in key},
        }
    return figures
