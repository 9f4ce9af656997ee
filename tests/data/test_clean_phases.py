"""The cleaning stage where something has to be counted over the whole corpus before it can go."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.data import clean_phases, clean_stage, limits
from chatwright.data.clean import CleanConfig
from chatwright.data.document import (
    CORPUS_SCHEMA,
    DOCUMENTS_SCHEMA,
    Document,
    PartWriter,
    iter_documents,
    open_part,
    read_row_group,
)
from chatwright.data.duplicates.config import DuplicatesConfig
from chatwright.data.duplicates.passages import ParagraphsConfig, Repeats, SiteLinesConfig
from chatwright.data.passage_partition import ParagraphsPayload
from chatwright.foundation import storage
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, StoppedError

EXACT_ONLY = DuplicatesConfig(near="off")
LINES = CleanConfig(site_lines=SiteLinesConfig(remove=True), duplicates=EXACT_ONLY)
PARAGRAPHS = CleanConfig(paragraphs=ParagraphsConfig(remove_repeats=True), duplicates=EXACT_ONLY)
MENU = "Sign in to read all of this"


@pytest.fixture
def write_raw(tmp_path, make_document, monkeypatch):
    """Writes texts as raw documents in partitions of two, with the fields of each."""

    def write(texts, **fields):
        monkeypatch.setattr(limits, "ROW_GROUP_DOCUMENTS", 2)
        monkeypatch.setattr(limits, "PARTITION_BYTES", 1)
        directory = tmp_path / "documents"
        directory.mkdir(exist_ok=True)
        with PartWriter(directory / "part-00000.parquet", DOCUMENTS_SCHEMA) as writer:
            for number, text in enumerate(texts):
                writer.add(make_document(text, number=number, **fields))
        return directory

    return write


def files_in(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_the_menu_of_a_site_leaves_every_page_and_the_report_shows_it(write_raw, stage, prose):
    raw = write_raw([f"{MENU}\n\n{prose} Number {n}." for n in range(12)], url="https://example.org/page")
    context = stage(LINES, documents=raw)
    clean_stage.run(context)
    texts = [document.text for document in iter_documents(context.output)]
    assert texts == [f"{prose} Number {n}." for n in range(12)]
    report = storage.read_json(context.output / "report.json")
    assert report["documents_in"] == report["documents_out"] == 12
    assert report["site_lines"] == {"sites": 1, "pages": 12, "lines": 1}
    changed = report["changed"]["site_lines"]
    assert (changed["documents"], changed["places"]) == (12, 12)
    assert changed["examples"] == [{"path": "0.txt", "detail": f"on 12 of 12 pages of example.org: {MENU}"}]


def test_texts_that_are_no_pages_keep_their_lines(write_raw, stage, prose):
    context = stage(LINES, documents=write_raw([f"{MENU}\n\n{prose} Number {n}." for n in range(12)]))
    clean_stage.run(context)
    assert all(document.text.startswith(MENU) for document in iter_documents(context.output))


def test_the_split_of_a_page_does_not_move_when_more_pages_make_a_line_frequent(write_raw, stage, prose):
    config = LINES.model_copy(update={"heldout_share": 0.5})
    texts = [f"{MENU}\n\n{prose} Number {n}." for n in range(40)]
    address = {"url": "https://example.org/page"}
    clean_stage.run(before := stage(config, name="before", documents=write_raw(texts[:9], **address)))
    clean_stage.run(after := stage(config, name="after", documents=write_raw(texts, **address)))
    splits = {document.path: document.split for document in iter_documents(after.output)}
    assert len(set(splits.values())) == 2
    for document in iter_documents(before.output):
        assert document.text.startswith(MENU)
        assert splits[document.path] == document.split


def test_a_paragraph_stays_in_the_first_document_of_the_corpus(write_raw, stage, prose):
    notice = "This notice stands below every text of the collection, whoever wrote it."
    raw = write_raw([f"{prose} Number {n}.\n\n{notice}" for n in range(5)])
    context = stage(PARAGRAPHS, documents=raw)
    clean_stage.run(context)
    texts = [document.text for document in iter_documents(context.output)]
    assert texts == [f"{prose} Number 0.\n\n{notice}", *(f"{prose} Number {n}." for n in range(1, 5))]
    assert [document.characters for document in iter_documents(context.output)] == list(map(len, texts))
    report = storage.read_json(context.output / "report.json")
    assert report["repeated_paragraphs"] == {"paragraphs": 10, "distinct": 6, "repeated": 1}
    assert report["changed"]["repeated_paragraphs"]["documents"] == 4


def test_a_document_of_which_nothing_is_left_is_dropped_with_its_reason(write_raw, stage, prose):
    raw = write_raw([f"{prose}\n\nThe first of all endings, of which there are only two.", prose])
    context = stage(PARAGRAPHS, documents=raw)
    clean_stage.run(context)
    report = storage.read_json(context.output / "report.json")
    assert (report["documents_in"], report["documents_out"]) == (2, 1)
    assert report["dropped"]["too_few_words"]["examples"] == [
        {"id": make_id(1), "path": "1.txt", "detail": "0 words without paragraphs that stood before"}
    ]


def test_no_paragraph_is_lost_because_a_document_that_lends_it_is_too_short(write_raw, stage):
    """The second text would go for the first's paragraph; the third would lose its own to the second."""
    words = [" ".join(f"word{letter}{n}" for n in range(40)) for letter in "abc"]
    long, short = " ".join(words[0].split()[:20]), "The paragraph of ten words that two of them have."
    texts = [f"{long}\n\n{words[1]}", f"{short}\n\n{long}", f"{short}\n\n{words[2]}"]
    context = stage(PARAGRAPHS, documents=write_raw(texts))
    clean_stage.run(context)
    assert [d.text for d in iter_documents(context.output)] == [texts[0], texts[1], words[2]]
    report = storage.read_json(context.output / "report.json")
    assert report["changed"]["repeated_paragraphs_kept"] == {"documents": 1, "places": 1}
    assert report["dropped"] == {}


def test_a_paragraph_that_only_its_own_document_repeats_keeps_no_document(write_raw, stage, prose):
    short = "The paragraph of ten words that only one of them has."
    context = stage(PARAGRAPHS, documents=write_raw([prose, f"{short}\n\n{short}\n\n{prose}"]))
    clean_stage.run(context)
    assert [d.text for d in iter_documents(context.output)] == [prose]


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=2, max_size=9))
@settings(max_examples=15, deadline=None)
def test_a_paragraph_goes_as_a_repeat_only_where_it_stands_in_the_corpus(tmp_path_factory, texts):
    paragraphs = [" ".join(f"w{key}x{n}" for n in range(9 + 4 * (key % 5))) for key in range(10)]
    folder = tmp_path_factory.mktemp("corpus")
    work = [folder / f"{number}.parquet" for number in range(len(texts))]
    for path, keys in zip(work, texts, strict=True):
        text = "\n\n".join(paragraphs[key] for key in keys)
        with PartWriter(path, CORPUS_SCHEMA) as writer:
            writer.add(Document(id=path.stem, text=text, source="s", path=path.name, domain="d"))
    payloads = [ParagraphsPayload(PARAGRAPHS, str(path), number, ()) for number, path in enumerate(work)]
    counts = [path.with_suffix(".counts") for path in work]
    for payload, path in zip(payloads, counts, strict=True):
        clean_phases.count_paragraphs(payload, path)
    Repeats.decide(counts, folder / "repeats")
    left: set[str] = set()
    for payload, path in zip(payloads, work, strict=True):
        clean_phases.without_repeats(payload._replace(repeats=str(folder / "repeats")), path.with_suffix(".rest"))
        with open_part(path.with_suffix(".rest")) as part:
            left.update(
                *(d.text.split("\n\n") for group in range(part.num_row_groups) for d in read_row_group(part, group))
            )
    several = {key for key in range(10) if sum(key in keys for keys in texts) > 1}
    assert {paragraphs[key] for key in several} <= left


def make_id(number):
    from chatwright.data.document import document_id

    return document_id("files:x", f"{number}.txt")


def test_copies_of_whole_documents_are_decided_first_and_lend_no_paragraph(write_raw, stage, prose):
    """The exact copy goes as such, and counts for nothing: the third text's paragraph is then the first of its kind."""
    ending = "An ending that is long enough to be looked for among all others."
    raw = write_raw([f"{prose} One.", f"{prose} One.", f"{prose} Two.\n\n{ending}"])
    context = stage(PARAGRAPHS, documents=raw)
    summary = clean_stage.run(context)
    assert summary["dropped"] == {"exact_duplicate": 1}
    assert [d.text for d in iter_documents(context.output)] == [f"{prose} One.", f"{prose} Two.\n\n{ending}"]


def test_a_run_stopped_between_counting_and_judging_gives_the_same_corpus(write_raw, stage, prose, monkeypatch):
    both = LINES.model_copy(update={"paragraphs": ParagraphsConfig(remove_repeats=True)})
    texts = [f"{MENU}\n\n{prose} Number {n}.\n\nA closing line of more than eight words for all." for n in range(12)]
    raw = write_raw(texts, url="https://example.org/page")
    clean_stage.run(whole := stage(both, name="whole", documents=raw))
    context = stage(both, name="stopped", documents=raw)
    for name in ("count_lines", "judge_partition", "count_paragraphs", "without_repeats"):
        work, worked = getattr(clean_phases, name), []

        def stop_after_two(payload, path, work=work, done=worked):
            work(payload, path)
            done.append(path)
            context.stop.requested = len(done) == 2

        with monkeypatch.context() as patch:
            patch.setattr(clean_phases, name, stop_after_two)
            with pytest.raises(StoppedError):
                clean_stage.run(context)
        context.stop.requested = False
    clean_stage.run(context)
    assert files_in(context.output) == files_in(whole.output)


def test_repeats_cannot_be_taken_out_of_copies_that_stay():
    data = {"paragraphs": {"remove_repeats": True}, "duplicates": {"near": "mark"}}
    with pytest.raises(ConfigError, match="would take apart the copies"):
        validate(CleanConfig, data, where="x")
