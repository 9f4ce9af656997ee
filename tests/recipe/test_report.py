"""The report: whole from a known run, safe whatever stands in the documents, and not written again for nothing."""

import contextlib
import dataclasses
import json
import re
from functools import partial
from html.parser import HTMLParser

import pytest
from sample_run import HOSTILE, STAGES, answered, write_run

from chatwright.evaluate.records import FOLDER, keep, new_record
from chatwright.feedback.ratings import Study, make_study
from chatwright.feedback.study import Judgement, StudyItem, StudyPlan
from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.recipe.report import overview, write_comparison, write_report
from chatwright.recipe.report.answering import Verdict, choose
from chatwright.recipe.report.corpus_pictures import fate_figure, mix_figures
from chatwright.recipe.report.facts import RATINGS, STAGE_NAMES, StageFacts, key_figures, read_run
from chatwright.recipe.report.figures import curve_of
from chatwright.recipe.report.markup import Html, data_block, element, table
from chatwright.recipe.report.scoring import scores_section
from chatwright.recipe.report.training import _pretraining

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
        self.scripts, self.data, self.ids = 0, {}, []
        self._inside = None
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.ids += [named["id"]] if "id" in named else []
        if tag == "section":
            self.sections.append(named["id"])
        self.addresses += [named[key] for key in ("src", "href", "action", "data") if key in named]
        if tag in ("script", "style"):
            self._inside = named.get("id", tag).removeprefix("data-")
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


def measured_again(run_dir, *, ends=None):
    """Two evaluations of the run's base, a day apart, the second with an interval that ends so."""
    model = {"name": "one-pretrain", "path": "pretrain/model", "digest": "d", "parameters": 1}
    for day, bits in enumerate((2.0, 1.5)):
        sure = {"bits_per_byte_95": ends} if day and ends else {}
        result = {"heldout": {"all": {"bits_per_byte": bits, **sure}}}
        when = partial(float, day * 86_400)
        keep(
            new_record("run", model=model, data={"path": "x"}, settings={}, result=result, clock=when), run_dir / FOLDER
        )


def test_curves_without_a_finite_value_are_left_out_and_the_use_of_the_machine_is_told(tmp_path):
    directory = write_run(tmp_path / "run") / "pretrain"
    for step in (0, 50):
        bits = {"all": 4.0, "odd": None}
        storage.append_line(
            directory / "metrics.jsonl", {"event": "evaluation", "step": step, "seconds": step, "bits_per_byte": bits}
        )
    storage.append_line(directory / "metrics.jsonl", {"event": "step", "step": 10, "seconds": 1.0, "loss": 5.0})
    summary = {"steps": 100, "target_tokens": 1000, "seconds": 10.0, "tokens_per_second": 100.0, "utilisation": 0.4567}
    facts = StageFacts(name="pretrain", directory=directory, content="", facts={"summary": summary})
    shown = str(_pretraining(facts))
    assert "odd" not in shown
    assert "45.7% of what plain matrix products reach there" in shown


def test_without_labels_the_summary_has_exact_answers():
    answers = {"pretrain": {"questions": 3, "exact": 0.0}, "finetune": {"questions": 3, "exact": 1.0, "bleu": 100.0}}
    (card,) = overview._answer_card(answers, "finetune")
    assert "Exact answers" in card
    assert "of 3 test questions; base model 0.0%; BLEU 100.0" in card
    labelled = {name: values | {"right": 0.5} for name, values in answers.items()}
    assert "Right answers" in overview._answer_card(labelled, "finetune")[0]


def test_no_two_parts_of_the_page_have_the_same_name(tmp_path):
    run_dir = write_run(tmp_path)
    measured_again(run_dir)
    page = Page(write_report(run_dir).read_text(encoding="utf-8"))
    assert "history" in page.sections
    assert page.data["history"]["series"]
    assert sorted(page.ids) == sorted(set(page.ids))


@pytest.mark.parametrize("ends", [[1.25, 4.0], None])
def test_a_line_over_evaluations_has_intervals_where_its_records_have_them(tmp_path, ends):
    measured_again(write_run(tmp_path), ends=ends)
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    (series,) = page.data["history"]["series"]
    assert (series["y"], series["ends"]) == ([2.0, 1.5], [None, ends])
    assert ("Scores over time, the thin lines are" in page.text) is (ends is not None)


def test_the_curves_can_be_put_over_steps_or_seconds(page):
    figure = page.data["pretrain-heldout"]
    assert figure["axes"] == {"steps": "step", "seconds": "seconds of training"}
    assert figure["series"][0]["steps"] == [0, 50, 100]
    assert figure["series"][0]["seconds"] == [0.0, 25.0, 50.0]
    assert figure["series"][0]["y"] == [4.0, 3.0, 2.0]


def test_gain_and_forgetting_stand_in_one_picture(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    shown = re.findall(r'aria-label="(test answers [^"]*)"', str(scores_section(run).body))
    assert shown[0].startswith("test answers 3.000 before, 1.000 after; all documents 2.000 before, 2.031 after")


@pytest.mark.parametrize(("lost", "is_explained"), [(0.031, False), (0.291, True)])
def test_much_forgetting_is_explained(tmp_path, lost, is_explained):
    run = read_run(write_run(tmp_path / "run"))
    stage = run.stages["finetune"]
    summary = {**stage.summary, "forgetting": {"all": lost}}
    changed = dataclasses.replace(stage, facts={**stage.facts, "summary": summary})
    text = str(scores_section(dataclasses.replace(run, stages={**run.stages, "finetune": changed})).body)
    assert ("forgot 0.291 bits per byte" in text) is is_explained
    assert ("A larger" in text) is is_explained


def test_the_way_from_the_base_shows_both_sides_and_the_point_that_was_kept(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    stage = run.stages["finetune"]
    points = [
        {
            "share": share,
            "score": score,
            "figures": {"validation_bits_per_byte": 3 - share, "heldout": {"all": {"bits_per_byte": 2 + share / 2}}},
        }
        for share, score in ((0.0, 3.0), (0.5, 2.75), (1.0, 2.5))
    ]
    summary = {**stage.summary, "interpolation": {"points": points, "chosen": 1.0}}
    changed = dataclasses.replace(stage, facts={**stage.facts, "summary": summary})
    text = str(scores_section(dataclasses.replace(run, stages={**run.stages, "finetune": changed})).body)
    assert "the model at 100" in text
    assert "at 50% the score is 2.750" in text
    assert "From the base" not in str(scores_section(run).body)


def test_text_of_documents_and_models_stays_text(page):
    assert page.scripts == 1
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
    assert "a base model of 123,456 parameters in the Qwen3 shape was fine-tuned" in page.text


_TAUGHT = {
    "reward": {"rows": 40, "steps": 5, "target_tokens": 900, "calibration": {"accuracy": 0.8, "error": 0.111}},
    "align": {
        **{"objective": "dpo", "rows": 30, "steps": 6, "pairs": 60, "seconds": 2.0, "pairs_per_second": 30.0},
        **{"evaluation": {"accuracy": 0.75}, "divergence_nats": 1.234, "forgetting": {"all": 0.02}},
    },
    "distill": {
        **{"total": 3_000_000, "teacher_parameters": 9_000_000, "steps": 7, "target_tokens": 700},
        **{"teacher_bits_per_byte": {"all": 1.11}, "student_bits_per_byte": {"all": 1.22}},
    },
}


@pytest.mark.parametrize(
    ("name", "made", "shown"),
    [
        ("reward", "A reward model learned from 40 pairs; it tells 80.0%", ("Reward model", "0.111", "900 target")),
        ("align", "aligned with 30 pairs by DPO; 75.0%", ("Alignment", "1.234", "+0.020", "60 pairs in 2", "0.693")),
        (
            "distill",
            "A student of 3 million parameters was distilled from a teacher of 9 million",
            ("Distillation", "1.110", "1.220"),
        ),
    ],
)
def test_a_run_whose_model_was_improved_tells_how_with_its_main_figures(tmp_path, name, made, shown):
    with storage.publish(tmp_path / name) as scratch:
        for step in (3, 6):
            event = {"event": "step", "step": step, "seconds": 1.0, "loss": 0.693}
            storage.append_line(scratch / "metrics.jsonl", event)
    storage.write_manifest(tmp_path / name, {"run": "sample", "summary": _TAUGHT[name]})
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "Nothing but the first stages" not in page.text
    assert "training" in page.sections
    for part in (made, *shown):
        assert part in page.text, part
    assert page.data[f"{name}-loss"]["series"][0]["y"] == [0.693, 0.693]


def test_steps_left_out_are_told_with_their_own_reason(tmp_path):
    run_dir = write_run(tmp_path, stages=STAGES[:5])
    event = {"event": "skipped", "step": 5, "reason": "the loss of 9 is a spike: above 4"}
    storage.append_line(run_dir / "pretrain" / "metrics.jsonl", event)
    storage.write_manifest(run_dir / "pretrain", storage.read_manifest(run_dir / "pretrain").facts)
    text = Page(write_report(run_dir).read_text(encoding="utf-8")).text
    assert "Steps left out as unsound: 1; the last: the loss of 9 is a spike: above 4." in text
    assert "not finite" not in text


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
    measured_again(write_run(tmp_path))
    path = write_report(tmp_path)
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.set_default_timeout(120_000)
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector(".frame svg")
    page.click("#training button[data-axis=seconds]")
    assert page.text_content("#training .frame .title") == "seconds of training"
    assert page.locator(".frame svg path[data-name]").count() == 1 + 1 + 3 + 1 + 1
    assert page.locator(".map rect").count() == len(STAGES)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert requests == [path.as_uri()]
    assert complaints == []
    page.close()


@pytest.mark.browser
def test_curves_tell_their_values_zoom_and_go_back_by_mouse_and_keyboard(tmp_path, browser):
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    page.set_default_timeout(120_000)
    page.goto(write_report(write_run(tmp_path)).as_uri())
    frame = page.locator("#plot-pretrain-heldout .frame")
    frame.locator("svg").focus()
    page.keyboard.press("End")
    assert frame.locator(".tip b").text_content() == "step 100"
    assert "all: 2" in frame.locator(".tip").text_content()
    frame.scroll_into_view_if_needed()
    place = frame.locator("svg").bounding_box()
    page.mouse.move(place["x"] + 0.3 * place["width"], place["y"] + 60)
    page.mouse.down()
    page.mouse.move(place["x"] + 0.7 * place["width"], place["y"] + 60)
    page.mouse.up()
    assert frame.locator(".whole").is_visible()
    frame.locator("svg").focus()
    page.keyboard.press("Escape")
    assert not frame.locator(".whole").is_visible()
    page.close()


@pytest.mark.browser
def test_a_point_of_a_curve_shows_its_interval_as_a_line_within_the_figure_and_in_words(tmp_path, browser):
    measured_again(write_run(tmp_path), ends=[1.25, 4.0])
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    page.set_default_timeout(120_000)
    page.goto(write_report(tmp_path).as_uri())
    frame = page.locator("#plot-history .frame")
    assert frame.locator("path.interval").count() == 1  # the first evaluation has none
    figure, curve, interval = (
        frame.locator(part).bounding_box() for part in ("svg", "path[data-name]", "path.interval")
    )
    assert figure["y"] < interval["y"] < curve["y"]  # 4 is above both points, 1.25 below
    assert curve["y"] + curve["height"] < interval["y"] + interval["height"] < figure["y"] + figure["height"]
    for label in frame.locator("text.tick").all():
        place = label.bounding_box()
        assert figure["x"] <= place["x"]
        assert place["x"] + place["width"] <= figure["x"] + figure["width"]
    frame.locator("svg").focus()
    page.keyboard.press("End")
    assert "1.5, 95% interval 1.25 to 4 (one-pretrain)" in frame.locator(".tip").text_content()
    page.keyboard.press("Home")
    assert "interval" not in frame.locator(".tip").text_content()
    page.close()


@pytest.mark.browser
def test_a_printed_report_cuts_nothing_at_the_side_and_unfolds_everything(tmp_path, browser):
    page = browser.new_page(viewport={"width": 690, "height": 1000})  # A4 between its margins
    page.set_default_timeout(120_000)
    page.goto(write_report(write_run(tmp_path)).as_uri())
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    wide = "[...document.querySelectorAll('main *')].filter((e) => e.scrollWidth > e.clientWidth + 1 && e.clientWidth && getComputedStyle(e).overflowX !== 'visible').length"
    assert page.evaluate(wide) == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 690
    page.close()


def test_the_report_is_small_enough_to_send(tmp_path):
    assert write_report(write_run(tmp_path)).stat().st_size < 300_000


def test_texts_written_during_training_are_shown_at_steps_spread_over_it(tmp_path):
    run_dir = write_run(tmp_path)
    for step in range(0, 101, 10):
        event = {
            "event": "evaluation",
            "step": step,
            "samples": [{"prompt": "Once", "text": f"at {step} {HOSTILE}"}],
        }
        storage.append_line(run_dir / "pretrain" / "metrics.jsonl", event)
    page = Page(write_report(run_dir).read_text(encoding="utf-8"))
    assert "What it wrote on the way" in page.text
    assert [step for step in range(0, 101, 10) if f"at {step} " in page.text] == [0, 20, 40, 60, 80, 100]
    assert page.scripts == 1


def test_ratings_of_people_are_in_the_report(tmp_path):
    run_dir = write_run(tmp_path)
    items = [StudyItem(id=str(number), models=(HOSTILE,), asked="Why?", answers=("Because.",)) for number in range(3)]
    make_study(run_dir / RATINGS, items, StudyPlan(raters=1, repeat_share=0.0))
    with contextlib.closing(Study(run_dir / RATINGS)) as study:
        rater = study.join("Ada", "user")
        for item in items:
            scores = {"fluency": 4, "coherence": 3, "relevance": 5}
            study.judge(rater, Judgement(item=item.id, occasion=0, key=f"key-of-item-{item.id}", scores=scores))
    page = Page(write_report(run_dir).read_text(encoding="utf-8"))
    assert "ratings" in page.sections
    assert "3 ratings of 1 person" in page.text
    assert page.scripts == 1


def test_a_report_made_while_people_rate_tells_what_they_said_last(tmp_path):
    run_dir = write_run(tmp_path)
    items = [StudyItem(id=str(number), models=("base",), asked="Why?", answers=("Because.",)) for number in range(2)]
    make_study(run_dir / RATINGS, items, StudyPlan(raters=1, repeat_share=0.0))
    with contextlib.closing(Study(run_dir / RATINGS)) as study:
        rater = study.join("Ada", "user")
        for told in ("1 ratings of 1 person", "2 ratings of 1 person"):
            scores = {"fluency": 4, "coherence": 3, "relevance": 5}
            item = study.next(rater).item.id
            study.judge(rater, Judgement(item=item, occasion=0, key=f"key-of-item-{item}", scores=scores))
            assert told in Page(write_report(run_dir).read_text(encoding="utf-8")).text


def test_several_runs_stand_side_by_side_with_what_differs(tmp_path):
    one, other = (write_run(tmp_path / name) for name in ("one", "other"))
    (other / "recipe.toml").write_text('name = "sample"\nseed = 2\n', encoding="utf-8")
    (one / "recipe.toml").write_text('name = "sample"\nseed = 1\n', encoding="utf-8")
    page = Page(write_comparison([one, other], tmp_path / "both.html").read_text(encoding="utf-8"))
    assert page.sections == ["figures", "domains", "curves", "samples", "settings"]
    assert [series["name"] for series in page.data["heldout"]["series"]] == ["one", "other"]
    assert "seed" in page.text
    assert "they are here" in page.text
    assert page.scripts == 1


def test_a_single_run_is_not_compared_and_none_is_named_twice(tmp_path):
    run_dir = write_run(tmp_path / "one")
    with pytest.raises(UsageError, match="two to"):
        write_comparison([run_dir], tmp_path / "both.html")
    with pytest.raises(UsageError, match="twice"):
        write_comparison([run_dir, run_dir], tmp_path / "both.html")


def test_the_data_are_drawn_with_their_numbers_in_words(tmp_path):
    page = Page(write_report(write_run(tmp_path / "run")).read_text(encoding="utf-8"))
    for words in (
        "Where the documents went",
        "\N{MINUS SIGN} near duplicate",
        "Copies of whole documents",
        "Of 30 pairs that might, 12 were compared and 4 were copies",
        "11 stood more than once",
        "Taken out: 7 places on 6 pages",
        "Personal data and keys replaced, places",
        "Mix by domain",
        "Mix by language",
        f"on 9 of 9: {HOSTILE}",
    ):
        assert words in page.text, words


def test_a_picture_of_many_reasons_keeps_the_largest_and_adds_up(tmp_path):
    reasons = {f"reason_{n}": {"count": n + 1, "characters": 0, "examples": []} for n in range(30)}
    run = write_run(tmp_path / "run")
    cleaned = {"documents_in": 1000, "documents_out": 535, "dropped": reasons}
    drawn = str(fate_figure(read_run(run), {"documents": 1000, "dropped": {}}, cleaned))
    assert "reason 29" in drawn
    assert "reason 3<" not in drawn
    assert f"18 others: {sum(range(1, 19))}" in drawn


def test_one_domain_alone_is_no_mix(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    run.stages.pop("tokens")
    assert mix_figures(run, {"by_domain": {"a": {"bytes": 5}}}, {"by_domain": {"a": {"bytes": 4}}}) is None
