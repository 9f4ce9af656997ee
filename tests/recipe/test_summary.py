"""The table at the end of a run, and the same as JSON."""

import json

import pytest
from sample_run import write_run

from chatwright.foundation.errors import UsageError
from chatwright.recipe.report import write_report
from chatwright.recipe.runner import StageOutcome
from chatwright.recipe.summary import as_table, summarise


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    run_dir = write_run(tmp_path_factory.mktemp("run"))
    write_report(run_dir)
    outcomes = [StageOutcome("corpus", "unchanged", 0.0, {}), StageOutcome("finetune", "done", 9.0, {})]
    return summarise(run_dir, outcomes)


def test_a_summary_is_json(result):
    assert json.loads(json.dumps(result)) == result


def test_stages_have_the_state_of_the_call_and_the_cost_of_the_work(result):
    corpus, finetune = result["stages"]
    assert corpus == {"stage": "corpus", "state": "unchanged", "seconds": 3.0, "peak_memory_bytes": 200_000_000}
    assert finetune["state"] == "done"


def test_a_summary_has_the_key_figures(result):
    figures = result["figures"]
    assert figures["documents"] == 85
    assert figures["tokens"] == 20_000
    assert figures["parameters"] == 123_456
    assert figures["heldout_bits_per_byte"] == {"pretrain": 1.9, "finetune": 1.95}
    assert figures["baselines"] == {"byte_trigram": 2.6, "xz_9e": 2.4}
    assert figures["answers"]["finetune"]["right"] == 0.75
    assert figures["gained_bits_per_byte"] == 2.0
    assert figures["forgotten_bits_per_byte"] == 0.031


def test_the_table_is_plain_text_where_there_is_no_terminal(result):
    shown = as_table(result)
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines()[:-1])) <= 100


def test_the_table_names_stages_figures_and_the_report(result):
    shown = as_table(result)
    assert "finetune  done       9 s   600 MB" in shown
    assert "figure                           value (95% interval)    measured" in shown
    assert "bits per byte, base model        1.900                   held-out documents" in shown
    assert "bits per byte, fine-tuned model  1.950 (1.877 to 2.022)  held-out documents" in shown
    assert "right answers, fine-tuned model  75.0% (62.8 to 84.2)    60 test questions" in shown
    assert "BLEU, fine-tuned model           61.2 (50.0 to 70.2)     chrF 70.5 (60.2 to 80.3)" in shown
    assert shown.splitlines()[-1] == f"report: {result['report']}"


def test_every_figure_has_a_line_of_its_own(result):
    """Nothing is so long that it is broken."""
    below = as_table(result).split("\nfigure ")[1].splitlines()[1:-2]
    assert [line for line in below if line.startswith(" ")] == []


def test_the_column_is_named_after_intervals_only_where_there_are_some(tmp_path):
    run_dir = write_run(tmp_path, stages=("documents", "corpus", "tokenizer", "tokens", "pretrain"))
    shown = as_table(summarise(run_dir, []))
    assert "bits per byte, base model  2.000" in shown
    assert "interval" not in shown


def test_what_was_not_measured_is_absent(tmp_path):
    run_dir = write_run(tmp_path, stages=("documents", "corpus"))
    result = summarise(run_dir, [StageOutcome("documents", "done", 1.0, {})])
    assert result["figures"] == {"documents": 85, "corpus_bytes": 75_000}
    assert "report" not in result
    assert "bits per byte" not in as_table(result)


def test_a_folder_without_stages_is_no_run(tmp_path):
    with pytest.raises(UsageError, match="is not a run"):
        summarise(tmp_path, [])
