from pathlib import Path

import pytest

from chatwright.data import clean_phases, clean_stage, limits, stretch
from chatwright.data.clean import CleanConfig, text_hash
from chatwright.data.document import DOCUMENTS_SCHEMA, PartWriter, document_id, iter_documents
from chatwright.data.duplicates.config import DuplicatesConfig
from chatwright.data.duplicates.removals import Removals
from chatwright.foundation import storage
from chatwright.foundation.errors import DataError, RefusedError, StoppedError

EXACT_ONLY = DuplicatesConfig(near="off")


@pytest.fixture
def raw(tmp_path, make_document, prose, monkeypatch):
    """Raw documents in two parts of several row groups: sound ones, a short one, and repeats across the parts."""
    monkeypatch.setattr(limits, "ROW_GROUP_DOCUMENTS", 2)
    monkeypatch.setattr(limits, "PARTITION_BYTES", 1)
    directory = tmp_path / "documents"
    directory.mkdir()
    texts = [f"{prose} Number {n}.\0" for n in range(8)]
    texts += ["Too short.", f"{prose.upper()}  Number 0.", f"{prose} Number 3.", texts[0]]
    documents = [make_document(text, number=n) for n, text in enumerate(texts)]
    for index, part in enumerate((documents[:7], documents[7:])):
        with PartWriter(directory / f"part-0000{index}.parquet", DOCUMENTS_SCHEMA) as writer:
            for document in part:
                writer.add(document)
    return directory


def files_in(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_the_first_of_equal_texts_stays_and_each_drop_has_its_reason(raw, stage):
    context = stage(CleanConfig(duplicates=EXACT_ONLY), documents=raw)
    summary = clean_stage.run(context)
    assert [d.path for d in iter_documents(context.output)] == [f"{n}.txt" for n in range(8)]
    report = storage.read_json(context.output / "report.json")
    assert (report["documents_in"], report["documents_out"]) == (12, 8)
    assert {reason: entry["count"] for reason, entry in report["dropped"].items()} == summary["dropped"]
    assert summary["dropped"] == {"exact_duplicate": 3, "too_few_words": 1}
    repeats = report["dropped"]["exact_duplicate"]["examples"]
    assert [(one["path"], one["detail"]) for one in repeats] == [
        ("9.txt", "the same as 0.txt"),
        ("10.txt", "the same as 3.txt"),
        ("11.txt", "the same as 0.txt"),
    ]


def test_the_report_adds_up(raw, stage):
    context = stage(CleanConfig(heldout_share=0.5, duplicates=EXACT_ONLY), documents=raw)
    clean_stage.run(context)
    report = storage.read_json(context.output / "report.json")
    kept = list(iter_documents(context.output))
    dropped = sum(entry["count"] for entry in report["dropped"].values())
    assert report["documents_in"] == report["documents_out"] + dropped
    assert report["characters_out"] == sum(len(d.text) for d in kept)
    assert report["bytes_out"] == sum(entry["bytes"] for entry in report["by_domain"].values())
    heldout = list(iter_documents(context.output, split="heldout"))
    assert report["by_domain"]["x"]["heldout_documents"] == len(heldout)
    assert report["changed"]["control_characters"]["documents"] == 9
    assert report["by_language"]["und"] == report["by_domain"]["x"]


def test_only_parts_the_report_and_the_copies_are_left(raw, stage):
    context = stage(CleanConfig(duplicates=EXACT_ONLY), documents=raw)
    clean_stage.run(context)
    assert set(files_in(context.output)) == {"part-00000.parquet", "report.json", "copies.parquet"}


def test_copies_that_went_are_named_with_what_stays(raw, stage):
    context = stage(CleanConfig(duplicates=EXACT_ONLY), documents=raw)
    clean_stage.run(context)
    removals, kept = Removals(context.output), {d.path: d.id for d in iter_documents(context.output)}
    gone = {number: document_id("files:x", f"{number}.txt") for number in (9, 10, 11)}
    assert removals.stands_for(gone[10]) == (kept["3.txt"], "exact_duplicate", 1.0)
    assert set(removals.of(kept["0.txt"])) == {gone[9], gone[11]}
    assert removals.stands_for(kept["0.txt"]) is None


def test_work_of_an_earlier_version_is_gone_on_with_and_not_published(raw, stage, monkeypatch):
    before, after = (stage(CleanConfig(duplicates=EXACT_ONLY), name=name, documents=raw) for name in ("one", "two"))
    clean_stage.run(before)
    before.work.rename(after.output / "work")  # where it used to stand
    monkeypatch.setattr(clean_phases, "clean_partition", lambda *_: pytest.fail("a partition was done again"))
    clean_stage.run(after)
    assert files_in(after.output) == files_in(before.output)


@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(raw, stage):
    outputs = []
    for workers in (1, 2):
        context = stage(CleanConfig(duplicates=EXACT_ONLY), name=f"w{workers}", workers=workers, documents=raw)
        clean_stage.run(context)
        outputs.append(files_in(context.output))
    assert outputs[0] == outputs[1]


def test_a_stopped_run_goes_on_where_it_was(raw, stage, monkeypatch):
    context = stage(CleanConfig(duplicates=EXACT_ONLY), name="stopped", documents=raw)
    worked = []
    original = clean_phases.clean_partition

    def stop_after_two(payload, path):
        original(payload, path)
        worked.append((payload.part, payload.groups))
        context.stop.requested = len(worked) == 2

    monkeypatch.setattr(clean_phases, "clean_partition", stop_after_two)
    with pytest.raises(StoppedError):
        clean_stage.run(context)
    context.stop.requested = False
    clean_stage.run(context)
    assert len(worked) == len(set(worked)) == 7
    monkeypatch.undo()
    monkeypatch.setattr(limits, "PARTITION_BYTES", 1)
    monkeypatch.setattr(limits, "ROW_GROUP_DOCUMENTS", 2)
    whole = stage(CleanConfig(duplicates=EXACT_ONLY), name="whole", documents=raw)
    clean_stage.run(whole)
    assert files_in(context.output) == files_in(whole.output)


def test_the_split_does_not_move_when_documents_are_added(raw, stage, make_document, prose):
    config = CleanConfig(heldout_share=0.5, duplicates=EXACT_ONLY)
    clean_stage.run(stage(config, name="before", documents=raw))
    with PartWriter(raw / "part-00002.parquet", DOCUMENTS_SCHEMA) as writer:
        for number in range(100, 130):
            writer.add(make_document(f"{prose} More, {number}.", number=number))
    after = stage(config, name="after", documents=raw)
    clean_stage.run(after)
    splits = {d.path: d.split for d in iter_documents(after.output)}
    assert all(splits[d.path] == d.split for d in iter_documents(after.output.parent / "before"))


@pytest.mark.slow
def test_pages_become_text_with_their_title_and_bad_ones_are_counted(tmp_path, stage, make_document, prose):
    directory = tmp_path / "documents"
    directory.mkdir()
    page = f"<html><head><title>Harbour</title></head><body><article><p>{prose}</p></article></body></html>"
    with PartWriter(directory / "part-00000.parquet", DOCUMENTS_SCHEMA) as writer:
        writer.add(make_document(page, number=0, media="html"))
        writer.add(make_document("<html><script>x()</script></html>", number=1, media="html"))
    context = stage(CleanConfig(duplicates=EXACT_ONLY), documents=directory)
    summary = clean_stage.run(context)
    assert [(d.text, d.title) for d in iter_documents(context.output)] == [(prose, "Harbour")]
    assert summary["dropped"] == {"no_text": 1}


def test_a_corpus_of_nothing_stops_with_reasons(tmp_path, stage, make_document):
    directory = tmp_path / "documents"
    directory.mkdir()
    with PartWriter(directory / "part-00000.parquet", DOCUMENTS_SCHEMA) as writer:
        writer.add(make_document("Too short."))
    with pytest.raises(DataError, match="no text") as caught:
        clean_stage.run(stage(CleanConfig(duplicates=EXACT_ONLY), documents=directory))
    assert caught.value.cause == "dropped: too_few_words: 1"


def test_no_documents_at_all_stop_too(tmp_path, stage):
    (tmp_path / "documents").mkdir()
    with pytest.raises(DataError, match="no text"):
        clean_stage.run(stage(CleanConfig(duplicates=EXACT_ONLY), documents=tmp_path / "documents"))


def test_a_damaged_part_is_refused(raw, stage):
    (raw / "part-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(RefusedError, match="part-00001"):
        clean_stage.run(stage(CleanConfig(duplicates=EXACT_ONLY), documents=raw))


@pytest.fixture
def placed(tmp_path, make_document, prose):
    """Writes documents of which so many lie below each share: where the split would put them is known."""

    def write(*bounds: tuple[float, float]) -> Path:
        texts = (f"{prose} Number {number}." for number in range(10_000))
        directory = tmp_path / "placed"
        directory.mkdir()
        with PartWriter(directory / "part-00000.parquet", DOCUMENTS_SCHEMA) as writer:
            for number, (low, high) in enumerate(bounds):
                text = next(text for text in texts if low <= int.from_bytes(text_hash(text)[:8]) / 2**64 < high)
                writer.add(make_document(text, number=number))
        return directory

    return write


def test_the_number_of_held_out_documents_is_told(placed, stage, capsys):
    documents = placed((0, 0.04), (0.1, 1), (0, 0.04), (0.1, 1))
    clean_stage.run(stage(CleanConfig(duplicates=EXACT_ONLY), documents=documents))
    said = capsys.readouterr().err
    assert "4 of 4 documents kept, 0.0 MB; 2 of them held out, 0.0 MB" in said
    assert "note:" not in said


def test_where_chance_holds_nothing_out_a_share_that_would_is_named(placed, stage, capsys):
    documents = placed((0.3, 1), (0.11, 0.19), (0.3, 1))
    clean_stage.run(stage(CleanConfig(duplicates=EXACT_ONLY), documents=documents))
    assert "such as `clean.heldout_share = 0.2`" in capsys.readouterr().err
    again = stage(CleanConfig(duplicates=EXACT_ONLY, heldout_share=0.2), name="again", documents=documents)
    clean_stage.run(again)
    assert len(list(iter_documents(again.output, split="heldout"))) == 1
    assert "note:" not in capsys.readouterr().err


def test_where_no_share_below_a_half_would_more_documents_are_asked_for(placed, stage, capsys):
    clean_stage.run(stage(CleanConfig(duplicates=EXACT_ONLY), documents=placed((0.6, 1))))
    said = capsys.readouterr().err
    assert "not seen: add documents" in said


def test_who_wants_nothing_held_out_is_told_nothing(placed, stage, capsys):
    clean_stage.run(stage(CleanConfig(duplicates=EXACT_ONLY, heldout_share=0), documents=placed((0.3, 1))))
    assert "note:" not in capsys.readouterr().err


def test_a_corpus_that_is_held_out_to_the_last_document_stops_with_the_name_of_its_split(placed, stage):
    with pytest.raises(DataError, match="`train` is empty") as caught:
        clean_stage.run(stage(CleanConfig(duplicates=EXACT_ONLY), documents=placed((0, 0.04), (0, 0.04))))
    assert caught.value.cause == "`clean.heldout_share` is 0.05"


def test_a_stop_while_removed_copies_are_written_leaves_no_half_file_and_the_next_try_ends_as_an_unbroken_one(
    raw, stage, monkeypatch
):
    straight = stage(CleanConfig(duplicates=EXACT_ONLY), name="straight", documents=raw)
    clean_stage.run(straight)
    context = stage(CleanConfig(duplicates=EXACT_ONLY), documents=raw)
    whole, given = clean_stage.write_removals, []

    def interrupted(copies, directory):
        def noted():
            for copy in copies:
                given.append(copy)
                context.stop.requested = True
                yield copy

        whole(noted(), directory)

    with monkeypatch.context() as patch:
        patch.setattr(clean_stage, "write_removals", interrupted)
        with pytest.raises(StoppedError):
            clean_stage.run(context)
    assert len(given) == 1
    assert not list(context.output.glob("*copies*"))
    context.stop.requested = False
    clean_stage.run(context)
    assert files_in(context.output) == files_in(straight.output)


def test_finding_removed_copies_says_how_far_it_is_where_it_takes_long(raw, stage, monkeypatch, capsys):
    monkeypatch.setattr(stretch, "_QUIET_S", 0.0)
    clean_stage.run(stage(CleanConfig(duplicates=EXACT_ONLY), documents=raw))
    told = capsys.readouterr().err
    assert all(f"{label} 0/" in told for label in ("read hashes", "find removed copies", "write removed copies"))
