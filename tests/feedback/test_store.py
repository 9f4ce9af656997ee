"""The feedback store keeps every acknowledged answer and rating, once."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from chatwright.feedback.conversations import Message
from chatwright.feedback.store import (
    EXPORT_BATCH,
    Answer,
    FeedbackStore,
    Rating,
    RatingConflictError,
    UnknownAnswerError,
)
from chatwright.foundation.errors import RefusedError, UsageError


def answer(name: str, *, text: str = "An answer.") -> Answer:
    return Answer(
        id=name,
        model="tiny",
        model_digest="d1",
        messages=(Message("system", "Be kind."), Message("user", "Hallo, wie geht's? 你好")),
        answer=text,
        sampling={"temperature": 0.5, "seed": None},
        finish="stop",
    )


@pytest.fixture
def store(tmp_path):
    opened = FeedbackStore(tmp_path / "feedback.sqlite", clock=lambda: 1000.0)
    yield opened
    opened.close()


def test_an_answer_and_its_ratings_come_back_whole(store):
    store.add_answer(answer("a"))
    store.add_rating(Rating(answer_id="a", thumb=-1, reason="wrong", better_answer="Better.", key="k1"))
    store.add_rating(Rating(answer_id="a", thumb=1))

    (line,) = store.export_lines()
    entry = json.loads(line)

    assert entry["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hallo, wie geht's? 你好"},
    ]
    assert (entry["model"], entry["model_digest"], entry["finish"]) == ("tiny", "d1", "stop")
    assert entry["sampling"] == {"temperature": 0.5, "seed": None}
    assert [rating["thumb"] for rating in entry["ratings"]] == [-1, 1]
    assert entry["ratings"][0]["better_answer"] == "Better."
    assert line.endswith("\n")


def test_a_replayed_key_gives_the_same_row(store):
    store.add_answer(answer("a"))
    first = store.add_rating(Rating(answer_id="a", thumb=1, key="k"))
    second = store.add_rating(Rating(answer_id="a", thumb=1, key="k"))

    assert (first.id, first.is_new) == (second.id, True)
    assert not second.is_new
    assert len(next(store.export())["ratings"]) == 1


def test_a_key_used_for_another_content_is_refused(store):
    store.add_answer(answer("a"))
    store.add_rating(Rating(answer_id="a", thumb=1, key="k"))

    with pytest.raises(RatingConflictError, match="used before"):
        store.add_rating(Rating(answer_id="a", thumb=-1, key="k"))


def test_the_same_key_for_two_answers_is_two_ratings(store):
    store.add_answer(answer("a"))
    store.add_answer(answer("b"))

    rows = [store.add_rating(Rating(answer_id=name, thumb=1, key="k")) for name in "ab"]

    assert rows[0].id != rows[1].id


def test_a_rating_of_an_unknown_answer_is_refused(store):
    with pytest.raises(UnknownAnswerError, match="`nobody`"):
        store.add_rating(Rating(answer_id="nobody", thumb=1))


def test_a_thumb_that_is_neither_up_nor_down_is_refused_by_the_database(store):
    store.add_answer(answer("a"))
    with pytest.raises(Exception, match="CHECK"):
        store.add_rating(Rating(answer_id="a", thumb=2))


def test_an_answer_is_stored_once(store):
    store.add_answer(answer("a"))
    with pytest.raises(UsageError, match="stored already"):
        store.add_answer(answer("a"))


def test_reopening_finds_what_was_written(tmp_path):
    first = FeedbackStore(tmp_path / "deep" / "er" / "feedback.sqlite")
    first.add_answer(answer("a"))
    first.close()

    again = FeedbackStore(f"sqlite:///{tmp_path}/deep/er/feedback.sqlite")

    assert [entry["id"] for entry in again.export()] == ["a"]
    again.close()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "feedback.sqlite"
    FeedbackStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_version SET version = 99")

    with pytest.raises(RefusedError, match="newer version: schema 99"):
        FeedbackStore(path)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "feedback.sqlite"
    path.write_bytes(b"this is not a database, only a text file of some length\n" * 40)

    with pytest.raises(RefusedError, match="not a sound database"):
        FeedbackStore(path)
    assert path.read_bytes().startswith(b"this is not")


def test_another_programs_tables_are_refused(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE answers (question TEXT)")

    with pytest.raises(RefusedError, match="other programs"):
        FeedbackStore(path)


@pytest.mark.parametrize("place", ["sqlite://", "sqlite:///:memory:", "nonsense://x", "://"])
def test_places_that_keep_nothing_are_refused(place):
    with pytest.raises(UsageError):
        FeedbackStore(place)


def test_sqlite_is_durable_and_holds_its_references(store):
    with store._engine.connect() as connection:
        facts = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert facts == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}


def test_export_reads_in_batches_and_only_the_rated_where_asked(store):
    with store._engine.begin() as connection:  # one transaction: the batches are the subject, not the writes
        from chatwright.feedback.store import _answers

        row = {**vars(answer("x")), "messages": [], "created": 1.0}
        connection.execute(_answers.insert(), [{**row, "id": f"a{n}"} for n in range(EXPORT_BATCH * 2 + 1)])
    store.add_rating(Rating(answer_id="a300", thumb=1))

    assert [entry["id"] for entry in store.export()] == [f"a{n}" for n in range(EXPORT_BATCH * 2 + 1)]
    assert [entry["id"] for entry in store.export(rated_only=True)] == ["a300"]


@pytest.mark.slow
def test_eight_threads_lose_no_write(store):
    store.add_answer(answer("shared"))

    def work(thread: int) -> None:
        for n in range(50):
            if n % 2:
                store.add_answer(answer(f"{thread}-{n}"))
            else:
                store.add_rating(Rating(answer_id="shared", thumb=1, key=f"{thread}-{n}"))
                store.add_rating(Rating(answer_id="shared", thumb=1, key=f"common-{n}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    entries = {entry["id"]: entry for entry in store.export()}
    assert len(entries) == 1 + 8 * 25
    assert len(entries["shared"]["ratings"]) == 8 * 25 + 25


@pytest.mark.parametrize("name", ["what?", "50%20off", "a#b", "a b"])
def test_a_store_is_made_where_it_was_named_whatever_its_folder_is_called(tmp_path, name):
    place = tmp_path / name / "feedback.sqlite"
    store = FeedbackStore(place)
    store.add_answer(answer("one"))
    store.close()
    assert place.read_bytes().startswith(b"SQLite format 3")
    assert [path.name for path in tmp_path.iterdir()] == [name]
