"""The report: whole from a known run, safe whatever stands in the documents, and not written again for nothing."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
from sample_run import HOSTILE, STAGES, answered, write_run

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.recipe.report import write_report
from chatwright.recipe.report.answering import Verdict, choose
from chatwright.recipe.report.facts import STAGE_NAMES, key_figures, read_run
from chatwright.recipe.report.figures import curve_of
from chatwright.recipe.report.markup import Html, data_block, element, table
from chatwright.recipe.report.scoring import scores_section

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Page(HTMLParser):
    """What a browser would see: text, sections, figures, scripts, and every address."""

    def __init__(self, source: str):
        super().__init__()
        self.text, self.sections, self.addresses = "", [], []
        self.scripts, self.data = 0, {}
        self._inside = None
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag == "section":
            self.sections.append(named["id"])
        self.addresses += [named[key] for key in ("src", "href", "action", "data") if key in named]
        if tag in ("script", "style"):
            self._inside = named.get("id", tag)
            self.scripts += tag == "script" and "type" not in named

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            self.text += data
        elif self._inside not in ("script", "style"):
            self.data[self._inside] = json.loads(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run_dir = write_run(tmp_path_factory.mktemp("run"))
    return Page(write_report(run_dir).read_text(encoding="utf-8"))


def test_the_report_has_every_part_of_a_whole_run(page):
    assert page.sections == ["summary", "scores", "samples", "weak", "training", "data", "lineage", "making"]


@pytest.mark.parametrize(
    "shown",
    [
        "85 documents",  # kept
        "75.0%",  # right answers
        "+0.031",  # forgotten
        "2.600",  # byte trigrams
        "2.400",  # xz -9e
        "61.25",  # BLEU
        "tok:13a",  # its signature
        "right, out of scope (20)",
        "too few words",
        "17 words",  # an example of a drop
        "A hard one",  # the worst document
        "returns (5)",  # what was said instead
        "a" * 64,  # the model's digest in full
        "2.13.0",  # PyTorch's version
    ],
)
def test_the_report_shows(page, shown):
    assert shown in page.text


def test_the_curves_can_be_put_over_steps_or_seconds(page):
    figure = page.data["pretrain-heldout"]
    assert figure["axes"]["steps"]["x"][0] == [0, 50, 100]
    assert figure["axes"]["seconds"]["x"][0] == [0.0, 25.0, 50.0]
    assert figure["data"][0]["y"] == [4.0, 3.0, 2.0]


def test_gain_and_forgetting_stand_in_one_picture(page):
    before, after = page.data["balance"]["data"]
    assert (before["y"][0], before["x"][0], after["x"][0]) == ("test answers", 3.0, 1.0)
    assert (before["y"][1], before["x"][1], after["x"][1]) == ("all documents", 2.0, 2.031)


@pytest.mark.parametrize(("lost", "is_explained"), [(0.031, False), (0.291, True)])
def test_much_forgetting_is_explained(tmp_path, lost, is_explained):
    run = read_run(write_run(tmp_path / "run"))
    stage = run.stages["finetune"]
    summary = {**stage.summary, "forgetting": {"all": lost}}
    changed = dataclasses.replace(stage, facts={**stage.facts, "summary": summary})
    text = str(scores_section(dataclasses.replace(run, stages={**run.stages, "finetune": changed})).body)
    assert ("forgot 0.291 bits per byte" in text) is is_explained
    assert ("A larger" in text) is is_explained


def test_text_of_documents_and_models_stays_text(page):
    assert page.scripts == 2
    assert HOSTILE in page.text


def test_nothing_is_fetched_from_elsewhere(page):
    assert [address for address in page.addresses if not address.startswith(("#", "data:"))] == []


def test_a_second_call_leaves_the_file_as_it_is(tmp_path):
    path = write_report(write_run(tmp_path))
    path.write_text(path.read_text(encoding="utf-8").replace("<h1>sample", "<h1>marked"), encoding="utf-8")
    write_report(tmp_path)
    assert "<h1>marked" in path.read_text(encoding="utf-8")


def test_a_changed_stage_has_the_report_written_anew(tmp_path):
    path = write_report(write_run(tmp_path))
    scores = storage.read_json(tmp_path / "evaluate" / "scores.json")
    scores["baselines"]["xz_9e"] = 2.222
    storage.write_json(tmp_path / "evaluate" / "scores.json", scores)
    storage.write_manifest(tmp_path / "evaluate", storage.read_manifest(tmp_path / "evaluate").facts)
    write_report(tmp_path)
    assert "2.222" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("count", range(1, len(STAGES)))
def test_a_run_that_has_only_its_first_stages_is_reported(tmp_path, count):
    page = Page(write_report(write_run(tmp_path, stages=STAGES[:count])).read_text(encoding="utf-8"))
    assert page.sections[0] == "summary"
    assert page.sections[-2:] == ["lineage", "making"]


def test_a_run_that_begins_from_a_base_model_is_reported(tmp_path):
    page = Page(write_report(write_run(tmp_path, stages=("finetune", "evaluate"))).read_text(encoding="utf-8"))
    assert "a base model of 123,456 parameters was fine-tuned" in page.text


def test_an_input_that_was_made_again_is_marked(tmp_path):
    write_run(tmp_path)
    (tmp_path / "corpus" / "more.txt").write_text("more")
    storage.write_manifest(tmp_path / "corpus", storage.read_manifest(tmp_path / "corpus").facts)
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "(made again since)" in page.text


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UsageError, match="is not a run"):
        write_report(tmp_path)


def test_a_damaged_manifest_is_refused_and_the_old_report_stays(tmp_path):
    path = write_report(write_run(tmp_path))
    before = path.read_bytes()
    (tmp_path / "corpus" / storage.MANIFEST).write_text("{")
    with pytest.raises(RefusedError):
        write_report(tmp_path)
    assert path.read_bytes() == before


def test_the_names_of_stages_are_those_of_the_recipe():
    from chatwright.recipe import stages

    assert tuple(stage.name for stage in stages.STAGES) == STAGE_NAMES


def test_without_evaluation_the_bits_per_byte_are_those_of_the_sample(tmp_path):
    figures = key_figures(read_run(write_run(tmp_path, stages=STAGE_NAMES[:5])))
    assert figures["heldout_bits_per_byte"] == {"pretrain": 2.0}
    assert figures["heldout_is_sample"]


def verdicts(count, *, wrong):
    return [
        Verdict(number, answered(number, is_right=number not in wrong), number not in wrong) for number in range(count)
    ]


def test_samples_are_twelve_over_all_and_up_to_eight_wrong_ones():
    chosen = choose(verdicts(449, wrong=set(range(0, 449, 5))))
    assert len(chosen) == 20
    assert sum(not verdict.is_right for verdict in chosen) >= 8
    assert [verdict.number for verdict in chosen] == sorted({verdict.number for verdict in chosen})


def test_samples_of_a_few_questions_are_all_of_them_once():
    assert [verdict.number for verdict in choose(verdicts(5, wrong={2}))] == [0, 1, 2, 3, 4]


def test_a_plain_string_never_becomes_markup():
    assert element("p", "<b>", Html("<i></i>"), title='"') == '<p title="&quot;">&lt;b&gt;<i></i></p>'


def test_json_in_the_page_cannot_end_its_block():
    block = data_block("x", {"name": HOSTILE})
    assert block.count("<") == 2
    assert json.loads(re.sub(r"^<[^>]*>|</script>$", "", block)) == {"name": HOSTILE}


def test_a_table_names_its_rows_and_columns():
    shown = table(["domain", "bits"], [["books", "1.9"]], caption="By domain")
    assert '<th scope="col">domain</th><th scope="col" class="number">bits</th>' in shown
    assert '<th scope="row">books</th><td class="number">1.9</td>' in shown


def test_long_curves_are_averaged_to_what_a_screen_shows():
    events = [{"step": step, "seconds": float(step)} for step in range(1, 5001)]
    curve = curve_of("loss", events, [float(event["step"]) for event in events])
    assert len(curve.steps) <= 2000
    assert (curve.steps[0], curve.values[0], curve.steps[-1]) == (3, 2.0, 5000)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS, timeout=120_000)
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_the_figures_and_fetches_nothing(tmp_path, browser, width, scheme):
    path = write_report(write_run(tmp_path))
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.set_default_timeout(120_000)
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector(".js-plotly-plot")
    page.click("#training button[data-axis=seconds]")
    title = "document.querySelector('#training .plot').layout.xaxis.title.text"
    assert page.evaluate(title) == "seconds of training"
    assert page.evaluate("document.querySelectorAll('.js-plotly-plot').length") == 6
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert requests == [path.as_uri()]
    assert complaints == []
    page.close()
