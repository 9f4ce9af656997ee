"""Figures on pages and cards: with their intervals where they have them, and absent where nothing was measured."""

import re

import pytest
from sample_run import write_run

from chatwright.evaluate.records import FOLDER, keep, new_record
from chatwright.foundation import storage
from chatwright.recipe.cards import write_cards
from chatwright.recipe.report import write_comparison, write_report
from chatwright.recipe.report.facts import key_figures, read_run
from chatwright.recipe.report.figures import Bars, bars


def words_of(page):
    """The text of a page, without markup and scripts."""
    shown = re.sub(r"<script\b.*?</script>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"<[^>]*>", " ", shown)


def rewrite(stage, file, change):
    """Change a JSON file of a published stage as if the stage had left it so."""
    value = storage.read_json(stage / file)
    change(value)
    storage.write_json(stage / file, value)
    storage.write_manifest(stage, storage.read_manifest(stage).facts)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("measured") / "sample")


@pytest.mark.parametrize(
    "shown",
    [
        "1.950 (1.877 to 2.022)",  # bits per byte
        "70.50 (64.11 to 77.22)",  # perplexity
        "75.0% (62.8% to 84.2%)",  # right answers
        "60.0% (47.4% to 71.4%)",  # exact ones
        "0.812 (0.751 to 0.872)",  # words shared
        "61.25 (50.05 to 70.15)",  # BLEU
        "70.50 (60.25 to 80.35)",  # chrF
        "of 60 test questions; 95% interval 62.8% to 84.2%",  # in the summary
        "95% intervals by bootstrap over documents",
        "of shares after Wilson",
    ],
)
def test_the_report_shows_the_interval_of(run_dir, shown):
    assert shown in words_of(write_report(run_dir))


def test_a_drawn_bar_has_its_interval_as_a_line_and_in_words(run_dir):
    page = write_report(run_dir).read_text(encoding="utf-8")
    (sure,) = re.findall(r'<span class="fill sure" style="([^"]*)" title="([^"]*)"><i class="whisker"></i>1.950<', page)
    style, title = sure
    assert "--low:0.7217;--high:0.7775" in style  # of the longest bar, the trigrams' 2.6
    assert title == "1.95, 95% interval 1.8765 to 2.0215"
    assert "fine-tuned model 1.950, 95% interval 1.877 to 2.022; base model 1.900" in page  # the picture in words
    assert "The thin lines are 95% intervals" in page


def test_a_line_reaches_no_further_than_the_longest_bar_may():
    drawn = bars("k", [Bars("", ["a", "b"], [1.0, 2.0], None, [None, (1.5, 4.0)])], caption="c", description="d")
    assert re.findall(r"--(?:share|low|high):[0-9.]+", drawn) == [
        "--share:0.2500",
        "--share:0.5000",
        "--low:0.3750",
        "--high:1.0000",
    ]


def test_the_table_of_evaluations_shows_intervals(tmp_path):
    run_dir = write_run(tmp_path / "sample")
    for name, result in storage.read_json(run_dir / "evaluate" / "scores.json")["models"].items():
        keep(new_record("run", model={"name": name}, data={"path": "x"}, settings={}, result=result), run_dir / FOLDER)
    page = words_of(write_report(run_dir))
    for shown in (
        "bits per byte 1.95 (1.877 to 2.022)",
        "right 0.75 (0.6277 to 0.8422)",
        "bleu 61.25 (50.05 to 70.15)",
    ):
        assert shown in page, shown
    assert "bits per byte 1.9, " in page  # the base's has none
    assert "digests. In brackets: 95% intervals." in page


def test_the_card_shows_intervals(run_dir):
    write_cards(run_dir)
    card = (run_dir / "finetune-model-card.md").read_text(encoding="utf-8")
    for shown in ("1.950 (1.877 to 2.022)", "75.0% (62.8% to 84.2%)", "61.2 (50.0 to 70.2)", "In brackets: 95%"):
        assert shown in card, shown
    assert "In brackets" not in (run_dir / "pretrain-model-card.md").read_text(encoding="utf-8")  # it has none


def test_runs_side_by_side_show_intervals(run_dir, tmp_path):
    other = write_run(tmp_path / "other")
    page = words_of(write_comparison([run_dir, other], tmp_path / "both.html"))
    for shown in ("1.950 (1.877 to 2.022)", "75.0% (62.8% to 84.2%)", "61.25 (50.05 to 70.15)", "may still differ"):
        assert shown in page, shown


def test_key_figures_keep_their_keys_and_have_intervals_beside_them(run_dir):
    figures = key_figures(read_run(run_dir))
    assert figures["heldout_bits_per_byte"]["finetune"] == 1.95
    assert figures["heldout_bits_per_byte_95"] == {"finetune": [1.8765, 2.0215]}
    assert figures["answers"]["finetune"]["right_95"] == [0.6277, 0.8422]


@pytest.fixture(params=["now", "before"])
def nothing_held_out(request, tmp_path):
    """A run of which no document was held out: as it is stored now, and with the perfect scores of before."""
    run_dir = write_run(tmp_path / "bare", stages=("documents", "corpus", "tokenizer", "tokens", "pretrain"))
    write_run(tmp_path / "whole")
    perfect = {"bits_per_byte": 0.0, "perplexity": 1.0, "documents": 0, "tokens": 0, "bytes": 0}
    scores = storage.read_json(tmp_path / "whole" / "evaluate" / "scores.json")
    base = {key: value for key, value in scores["models"]["pretrain"].items() if key != "heldout"}
    scores = {"models": {"pretrain": base | ({"heldout": {"all": perfect}} if request.param == "before" else {})}}
    with storage.publish(run_dir / "evaluate", {"run": "bare", "inputs": {}}) as scratch:
        storage.write_json(scratch / "scores.json", scores)
    facts = storage.read_manifest(run_dir / "tokens").facts
    facts["summary"]["heldout"] = {"tokens": 0, "documents": 0, "bytes": 0}
    storage.write_manifest(run_dir / "tokens", facts)
    facts = storage.read_manifest(run_dir / "pretrain").facts
    del facts["summary"]["evaluation"]
    storage.write_manifest(run_dir / "pretrain", facts)
    result = scores["models"]["pretrain"]
    record = new_record("run", model={"name": "bare"}, data={"path": "x"}, settings={}, result=result)
    keep(record, run_dir / FOLDER)
    return run_dir


def test_no_documents_held_out_are_no_perfect_score(nothing_held_out, tmp_path):
    figures = key_figures(read_run(nothing_held_out))
    assert "heldout_bits_per_byte" not in figures
    assert figures["answers"]["pretrain"]["right"] == 0.0
    page = words_of(write_report(nothing_held_out))
    both = words_of(write_comparison([nothing_held_out, tmp_path / "whole"], tmp_path / "both.html"))
    write_cards(nothing_held_out)
    card = (nothing_held_out / "pretrain-model-card.md").read_text(encoding="utf-8")
    for text in (page, both, card):
        assert "No document was held out, so bits per byte and perplexity are not measured." in text
    assert "0.000" not in page
    assert "bits per byte 0" not in page  # the record's line
    assert "0.000" not in card


def test_runs_that_were_evaluated_before_there_were_intervals_are_shown_without(tmp_path):
    run_dir = write_run(tmp_path / "sample")

    def strip(value):
        for key in [key for key in value if key.endswith("_95")]:
            del value[key]
        for inner in value.values():
            if isinstance(inner, dict):
                strip(inner)

    rewrite(run_dir / "evaluate", "scores.json", strip)
    path = write_report(run_dir)
    page = words_of(path)
    assert "1.950" in page
    assert "In brackets" not in page
    assert "95% interval" not in page
    assert "whisker" not in path.read_text(encoding="utf-8").split("</style>")[1]
