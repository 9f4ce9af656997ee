"""lm-evaluation-harness on our model: equal to its own `hf` model on the exported directory, item by item."""

import json
import random

import pytest

pytest.importorskip("lm_eval", reason="the extra `tasks` (lm-evaluation-harness) is not installed")

from chatwright.evaluate.harness import HarnessModel, TaskOptions, harness_figures, run_tasks  # noqa: E402
from chatwright.foundation.errors import UsageError  # noqa: E402

pytestmark = pytest.mark.slow

PAIRS = """task: pairs
dataset_path: json
dataset_kwargs:
  data_files: {data}
validation_split: train
output_type: multiple_choice
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{{{[good, bad]}}}}"
num_fewshot: 0
metric_list:
  - metric: acc
metadata:
  version: 1.0
"""
ROLLING = """task: rolling
dataset_path: json
dataset_kwargs:
  data_files: {data}
validation_split: train
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{long}}}}"
metric_list:
  - metric: byte_perplexity
  - metric: bits_per_byte
metadata:
  version: 1.0
"""
WRITING = """task: writing
dataset_path: json
dataset_kwargs:
  data_files: {data}
validation_split: train
output_type: generate_until
doc_to_text: "{{{{good}}}}"
doc_to_target: "{{{{bad}}}}"
generation_kwargs:
  until: ["\\n\\n"]
  max_gen_toks: 8
  do_sample: false
metric_list:
  - metric: exact_match
metadata:
  version: 1.0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Minimal pairs in the manner of BLiMP, made by a rule, and three tasks on them."""
    place = tmp_path_factory.mktemp("tasks")
    draw = random.Random(3)
    nouns, verbs = ["ferry", "ticket", "child", "hour", "boat"], ["leave", "ride", "open", "answer", "write"]
    lines = []
    for _ in range(60):
        noun, verb, tail = draw.choice(nouns), draw.choice(verbs), " again" * draw.randrange(9)
        lines.append(
            {
                "good": f"The {noun} {verb}s{tail}.",
                "bad": f"The {noun} {verb}{tail}.",
                "long": f"The {noun} {verb}s{tail}. " * 6,
            }
        )
    (place / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, text in (("pairs", PAIRS), ("rolling", ROLLING), ("writing", WRITING)):
        (place / f"{name}.yaml").write_text(text.format(data=place / "pairs.jsonl"))
    return place


def theirs(directory, names, folder):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    return simple_evaluate(
        model="hf",
        model_args={"pretrained": str(directory), "dtype": "float32"},
        device="cpu",
        batch_size=4,
        tasks=names,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )


def by_document(found, name):
    return {sample["doc_id"]: sample for sample in found["samples"][name]}


def test_results_equal_their_own_model_to_the_last_item(tiny_model, tiny_directory, folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    names = ["pairs", "rolling", "writing"]
    ours, other = (
        run_tasks(tiny_model, names, options=TaskOptions(include=folder)),
        theirs(tiny_directory, names, folder),
    )
    for name in names:
        mine, expected = by_document(ours, name), by_document(other, name)
        assert len(mine) == len(expected) == 60
        for number, sample in expected.items():
            assert mine[number]["arguments"] == sample["arguments"]
            if name == "writing":
                assert mine[number]["filtered_resps"] == sample["filtered_resps"]
            elif name == "pairs":
                for (value, greedy), (wanted, is_greedy) in zip(mine[number]["filtered_resps"], sample["filtered_resps"], strict=True):  # fmt: skip
                    assert float(value) == pytest.approx(float(wanted), abs=1e-3)
                    assert str(greedy) == str(is_greedy)
                assert mine[number]["acc"] == sample["acc"]
        first, second = harness_figures(ours)[name], harness_figures(other)[name]
        assert first["value"] == pytest.approx(second["value"], rel=1e-5)
        assert first["items"] == 60


def test_a_beginning_that_the_tokenizer_writes_stands_before_contexts_as_in_their_own_model(tiny_model, monkeypatch):
    model, ids = HarnessModel(tiny_model), tiny_model.tokenizer.encode("The ferry")
    assert model.tok_encode("The ferry") == ids
    monkeypatch.setattr(type(tiny_model.tokenizer), "writes_begin", True)
    assert model.tok_encode("The ferry") == [tiny_model.tokenizer.begin_of_text, *ids]
    assert model.tok_encode("The ferry", add_special_tokens=False) == ids


def test_an_unknown_task_and_a_chat_template_are_refused(tiny_model, folder):
    with pytest.raises(UsageError, match="`nothing` is no task here"):
        run_tasks(tiny_model, ["nothing"], options=TaskOptions(include=folder))
    with pytest.raises(UsageError, match="chat template"):
        HarnessModel(tiny_model).apply_chat_template([{"role": "user", "content": "x"}])
