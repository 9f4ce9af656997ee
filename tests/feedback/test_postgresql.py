"""The store on a real PostgreSQL server: the same behaviour as on SQLite. Skipped where there is no server to start."""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sql
from test_history import without_later_columns
from test_store import answer

from chatwright.feedback import tables
from chatwright.feedback.database import SCHEMA_VERSION
from chatwright.feedback.history import Turn
from chatwright.feedback.store import Choice, FeedbackStore, Rating, RatingConflictError, Score
from chatwright.foundation.errors import RefusedError

pytestmark = pytest.mark.slow


@pytest.fixture
def url(postgresql):
    engine = sql.create_engine(postgresql)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return postgresql


@pytest.fixture
def store(url):
    with contextlib.closing(FeedbackStore(url, clock=lambda: 1000.0)) as opened:
        yield opened


def test_answers_and_every_kind_of_opinion_come_back_whole(store):
    store.add_answer(answer("a"))
    store.add_answer(answer("b", text="另一个答案"))
    store.add_rating(Rating(answer_id="a", thumb=-1, better_answer="Better.", key="k", rater="ann", role="expert"))
    store.add_rating(Choice(first="a", second="b", choice="second", rater="ben"))
    store.add_rating(Score(answer_id="b", score=4.5, aspects={"fluency": 5, "relevance": 4}, rater="ann"))
    one, two = (json.loads(line) for line in store.export_lines())
    assert (one["ratings"][0]["better_answer"], one["ratings"][0]["role"]) == ("Better.", "expert")
    assert (one["choices"][0]["choice"], two["choices"][0]["choice"]) == ("lost", "won")
    assert two["scores"][0]["aspects"] == {"fluency": 5, "relevance": 4}
    assert two["answer"] == "另一个答案"


def test_a_key_counts_once_and_not_for_another_content(store):
    store.add_answer(answer("a"))
    rating = Rating(answer_id="a", thumb=1, key="k")
    assert store.add_rating(rating).is_new
    assert not store.add_rating(rating).is_new
    with pytest.raises(RatingConflictError):
        store.add_rating(Rating(answer_id="a", thumb=-1, key="k"))


def test_many_writers_lose_nothing(store):
    for number in range(8):
        store.add_answer(answer(f"a{number}"))

    def rate(number):
        return store.add_rating(Rating(answer_id=f"a{number % 8}", thumb=1, key=f"k{number // 2}")).is_new

    with ThreadPoolExecutor(8) as pool:
        fresh = sum(pool.map(rate, range(80)))
    assert fresh == sum(len(entry["ratings"]) for entry in store.export()) == 80


def test_the_same_rating_sent_by_several_at_once_is_stored_once(store):
    store.add_answer(answer("a"))
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda _: store.add_rating(Rating(answer_id="a", thumb=1, key="k")), range(16)))
    assert len({row.id for row in rows}) == 1
    assert sum(row.is_new for row in rows) == 1


def test_conversations_are_kept_found_and_forgotten_with_their_person(store):
    store.history.create("ann", id="c1", title="", system="", settings={})
    store.history.add("ann", "c1", [Turn(id="t1", parent=None, role="user", content="About KETTLES")])
    store.history.add("ann", "c1", [Turn(id="t2", parent="t1", role="assistant", content="", answer="a")])
    store.add_answer(answer("a"))
    assert [line.id for line in store.history.find("ann", query="kettles")] == ["c1"]
    store.people.set_consent("ann", agrees=True)
    gone = store.people.forget("ann")
    assert (gone.conversations, gone.answers) == (1, 1)
    assert store.history.find("ann") == []
    assert list(store.export()) == []
    assert store.people.consent("ann") is None


REMOVALS = {
    "the conversation": lambda store: store.history.delete("ann", "t"),
    "the turn": lambda store: store.history.take_back(["t1"], leaf="q"),
    "the person": lambda store: store.people.forget("ann"),
}


@pytest.mark.parametrize("removed", REMOVALS)
def test_an_answer_that_is_being_stored_while_its_turn_is_removed_is_removed_too(store, removed):
    store.history.create("ann", id="t", title="", system="", settings={})
    store.history.add("ann", "t", [Turn(id="q", parent=None, role="user", content="Hello")])
    store.history.add("ann", "t", [Turn(id="t1", parent="q", role="assistant", content="", answer="a")])
    waiting = sql.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")

    def removed_meanwhile(*_):
        """Just before the answer's record is written: its turn is held by then."""
        running.append(pool.submit(REMOVALS[removed], store))
        for _ in range(20_000):
            with store._engine.connect() as watching:
                if running[0].done() or watching.execute(waiting).scalar():
                    return

    running = []
    with ThreadPoolExecutor(1) as pool:
        sql.event.listen(store._engine, "before_cursor_execute", on_insert(removed_meanwhile))
        store.add_answer(replace(answer("a", text=""), finish="cancelled"), is_turn=True)
        running[0].result(20)
    assert list(store.export()) == []


def on_insert(act):
    return lambda _connection, _cursor, text, *_rest: act() if text.startswith("INSERT INTO answers") else None


def test_a_store_of_the_second_version_is_brought_up_to_date(url):
    engine = sql.create_engine(url)
    then = without_later_columns(version=2)
    with engine.begin() as connection:
        then.create_all(connection, tables=[t for name, t in then.tables.items() if name not in ("scores", "people")])
        connection.execute(tables.versions.insert().values(version=2))
        row = {**vars(answer("old")), "messages": [], "created": 1.0}
        connection.execute(then.tables["answers"].insert().values(**{k: v for k, v in row.items() if k != "owner"}))
        connection.execute(then.tables["ratings"].insert().values(answer_id="old", thumb=1, created=2.0))
    engine.dispose()
    with contextlib.closing(FeedbackStore(url)) as store:
        (entry,) = store.export()
        assert (entry["owner"], entry["ratings"][0]["rater"], entry["ratings"][0]["role"]) == ("", "", "user")
        store.add_rating(Score(answer_id="old", score=3.0))


def test_a_newer_schema_is_refused(url):
    FeedbackStore(url).close()
    engine = sql.create_engine(url)
    with engine.begin() as connection:
        connection.execute(tables.versions.insert().values(version=SCHEMA_VERSION + 1))
    engine.dispose()
    with pytest.raises(RefusedError, match="newer version"):
        FeedbackStore(url)
