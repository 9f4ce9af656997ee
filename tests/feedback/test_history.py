"""Conversations are kept as trees, belong to one owner, and survive everything but their own deletion."""

import itertools
import sqlite3

import pytest

from chatwright.feedback import tables
from chatwright.feedback.conversations import Message
from chatwright.feedback.history import (
    MAX_TURNS,
    HistoryConflictError,
    HistoryFullError,
    Turn,
    UnknownConversationError,
    title_of,
)
from chatwright.feedback.store import Answer, Choice, FeedbackStore, Rating


@pytest.fixture
def store(tmp_path):
    ticks = itertools.count(1.0)
    opened = FeedbackStore(tmp_path / "feedback.sqlite", clock=lambda: next(ticks))
    yield opened
    opened.close()


@pytest.fixture
def history(store):
    store.history.create("ann", id="c1", title="", system="Be kind.", settings={"temperature": 0.5})
    return store.history


def user(id, text="Hello", parent=None):
    return Turn(id=id, parent=parent, role="user", content=text)


def said(id, parent, text="Hi", **fields):
    return Turn(id=id, parent=parent, role="assistant", content=text, **fields)


def test_a_conversation_is_found_again_with_its_settings_and_title(history):
    history.add("ann", "c1", [user("t1", "How do I  make\ntea?")])
    kept = history.get("ann", "c1")
    assert (kept.title, kept.system, kept.settings) == ("How do I make tea?", "Be kind.", {"temperature": 0.5})
    assert kept.leaf == "t1"
    assert [listed.id for listed in history.find("ann")] == ["c1"]


def test_branches_are_siblings_and_a_path_leads_to_each(history):
    history.add("ann", "c1", [user("q1")])
    history.add("ann", "c1", [said("a1", "q1", "first")])
    history.add("ann", "c1", [said("a2", "q1", "second")])
    history.add("ann", "c1", [user("q2", "more", "a1")])
    kept = history.get("ann", "c1")
    assert [turn.id for turn in kept.path("q2")] == ["q1", "a1", "q2"]
    assert kept.messages("q2") == [
        Message("system", "Be kind."),
        Message("user", "Hello"),
        Message("assistant", "first"),
        Message("user", "more"),
    ]
    assert [turn.id for turn in kept.path("a2")] == ["q1", "a2"]


def test_a_turn_sent_again_is_kept_once_and_another_content_is_refused(history):
    for _ in range(2):
        history.add("ann", "c1", [user("q1")])
    assert len(history.get("ann", "c1").turns) == 1
    with pytest.raises(HistoryConflictError):
        history.add("ann", "c1", [user("q1", "something else")])


@pytest.mark.parametrize("turn", [said("a1", None), user("q2", "again", "q1")])
def test_roles_must_alternate(history, turn):
    history.add("ann", "c1", [user("q1")])
    with pytest.raises(HistoryConflictError):
        history.add("ann", "c1", [turn])


def test_a_parent_must_be_in_the_same_conversation(history):
    history.create("ann", id="c2", title="", system="", settings={})
    history.add("ann", "c1", [user("q1")])
    with pytest.raises(UnknownConversationError):
        history.add("ann", "c2", [said("a1", "q1")])


def test_to_everybody_else_a_conversation_does_not_exist(history):
    for act in (
        lambda: history.get("bob", "c1"),
        lambda: history.delete("bob", "c1"),
        lambda: history.change("bob", "c1", title="mine"),
        lambda: history.add("bob", "c1", [user("q1")]),
    ):
        with pytest.raises(UnknownConversationError, match="there is no such conversation"):
            act()
    with pytest.raises(HistoryConflictError):
        history.create("bob", id="c1", title="", system="", settings={})
    assert history.find("bob") == []


@pytest.mark.parametrize(
    ("query", "found"), [("tea", True), ("TEA", True), ("50%", True), ("5_%", False), ("xyz", False)]
)
def test_conversations_are_found_by_what_was_said(history, query, found):
    history.add("ann", "c1", [user("q1", "Tea at 50% off")])
    history.change("ann", "c1", title="Shopping")
    assert bool(history.find("ann", query=query)) is found
    assert history.find("ann", query="shopp")


def test_the_list_is_in_pages_the_latest_first(history):
    for number in range(5):
        history.create("bea", id=f"b{number}", title=str(number), system="", settings={})
    first = history.find("bea", limit=3)
    rest = history.find("bea", limit=3, before=first[-1].updated)
    assert [listed.title for listed in first + rest] == ["4", "3", "2", "1", "0"]


def test_an_answer_is_kept_while_it_is_written_and_whole_with_its_record(store, history):
    history.add("ann", "c1", [user("q1")])
    history.add("ann", "c1", [said("a1", "q1", "", answer="answer-1")])
    history.write("a1", "Once upon")
    assert (history.get("ann", "c1").turn("a1").content, history.get("ann", "c1").turn("a1").finish) == (
        "Once upon",
        None,
    )
    store.add_answer(answer("answer-1", "Once upon a time"))
    history.write("a1", "too late", finish="failed")
    turn = history.get("ann", "c1").turn("a1")
    assert (turn.content, turn.finish) == ("Once upon a time", "stop")


def test_what_a_dead_server_left_is_marked_as_broken(history):
    history.add("ann", "c1", [user("q1")])
    history.add("ann", "c1", [said("a1", "q1", "half")])
    assert history.mark_broken() == 1
    assert history.get("ann", "c1").turn("a1").finish == "broken"
    assert history.mark_broken() == 0


def test_an_answer_without_a_word_is_taken_back_and_a_written_one_is_not(history):
    history.add("ann", "c1", [user("q1")])
    history.add("ann", "c1", [said("a1", "q1", ""), said("a2", "q1", "word")])
    history.take_back(["a1", "a2"], leaf="q1")
    kept = history.get("ann", "c1")
    assert ([turn.id for turn in kept.turns], kept.leaf) == (["q1", "a2"], "q1")


def test_an_answer_that_is_taken_back_leaves_no_record_and_no_opinion_of_it(store, history):
    history.add("ann", "c1", [user("q1")])
    history.add("ann", "c1", [said("a1", "q1", "", answer="one"), said("a2", "q1", "", answer="two")])
    store.add_answer(answer("one", ""), is_turn=True)
    store.add_rating(Rating(answer_id="one", thumb=-1))
    store.add_answer(answer("two", "text"), is_turn=True)
    history.take_back(["a1", "a2"], leaf="q1")
    assert [entry["id"] for entry in store.export()] == ["two"]


def test_an_answer_whose_turn_is_gone_is_not_stored_and_one_that_never_had_a_turn_is(store, history):
    history.add("ann", "c1", [user("q1")])
    history.add("ann", "c1", [said("a1", "q1", "", answer="one")])
    history.delete("ann", "c1")
    store.add_answer(answer("one", "text"), is_turn=True)
    store.add_answer(answer("alone", "text"))
    assert [entry["id"] for entry in store.export()] == ["alone"]


def test_deleting_removes_the_answers_and_what_was_thought_of_them(store, history):
    history.add("ann", "c1", [user("q1")])
    history.add("ann", "c1", [said("a1", "q1", answer="one"), said("a2", "q1", answer="two")])
    for name in ("one", "two", "other"):
        store.add_answer(answer(name, "text"))
    store.add_rating(Rating(answer_id="one", thumb=1))
    store.add_rating(Choice(first="one", second="two", choice="first"))
    history.delete("ann", "c1")
    assert [entry["id"] for entry in store.export()] == ["other"]
    assert history.find("ann") == []
    with pytest.raises(UnknownConversationError):
        history.get("ann", "c1")


def test_a_conversation_has_an_end(history):
    with pytest.raises(HistoryFullError):
        history.add("ann", "c1", [user(f"q{number}") for number in range(MAX_TURNS + 1)])
    assert history.get("ann", "c1").turns == ()


def test_titles_are_one_line_cut_at_a_word():
    assert title_of("  one\n two ") == "one two"
    assert title_of("word " * 40).endswith("word…")


def test_choices_stand_with_both_answers_and_count_once(store):
    store.add_answer(answer("one", "1"))
    store.add_answer(answer("two", "2"))
    choice = Choice(first="two", second="one", choice="first", reason="clearer", key="k")
    assert store.add_rating(choice).is_new
    assert not store.add_rating(choice).is_new
    one, two = store.export(rated_only=True)
    assert [(entry["choices"][0]["choice"], entry["choices"][0]["against"]) for entry in (one, two)] == [
        ("lost", "two"),
        ("won", "one"),
    ]


def test_a_store_of_the_first_version_is_brought_up_to_date_with_a_copy_beside_it(tmp_path):
    path = tmp_path / "feedback.sqlite"
    make_first_version(path)
    store = FeedbackStore(path)
    store.history.create("ann", id="c1", title="", system="", settings={})
    assert [entry["id"] for entry in store.export()] == ["old"]
    store.close()
    with sqlite3.connect(f"{path}.schema-1") as copy:
        assert copy.execute("SELECT version FROM schema_version").fetchall() == [(1,)]
        assert copy.execute("SELECT id FROM answers").fetchall() == [("old",)]


@pytest.mark.parametrize("statement", range(1, 12))
def test_a_migration_that_fails_half_way_leaves_the_old_schema(tmp_path, monkeypatch, statement):
    path = tmp_path / "feedback.sqlite"
    make_first_version(path)
    fail_at_statement(monkeypatch, statement)
    try:
        FeedbackStore(path).close()
    except RuntimeError:
        with sqlite3.connect(path) as left:
            names = {row[0] for row in left.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert not {"turns", "choices", "conversations"} & names
    monkeypatch.undo()
    store = FeedbackStore(path)
    assert [entry["id"] for entry in store.export()] == ["old"]
    assert store.history.find("ann") == []
    store.close()


def test_a_store_of_the_second_version_names_the_owners_of_its_conversations(tmp_path):
    import sqlalchemy as sql

    path = tmp_path / "feedback.sqlite"
    engine = sql.create_engine(f"sqlite:///{path}")
    then = without_later_columns(version=2)
    talks = {"id": "c1", "owner": "ann", "title": "", "system": "", "settings": {}, "created": 1.0, "updated": 1.0}
    with engine.begin() as connection:
        then.create_all(connection, tables=[t for name, t in then.tables.items() if name not in ("scores", "people")])
        connection.execute(tables.versions.insert().values(version=2))
        connection.execute(then.tables["conversations"].insert().values(**talks))
        turn = {"id": "t", "conversation": "c1", "role": "assistant", "content": "", "created": 1.0, "answer": "hers"}
        connection.execute(then.tables["turns"].insert().values(**turn))
        for name in ("hers", "nobodys"):
            row = {k: v for k, v in vars(answer(name, "text")).items() if k != "owner"} | {"messages": []}
            connection.execute(then.tables["answers"].insert().values(**row, created=1.0))
            connection.execute(then.tables["ratings"].insert().values(answer_id=name, thumb=1, created=2.0))
    engine.dispose()
    store = FeedbackStore(path)
    found = [(entry["id"], entry["owner"], entry["ratings"][0]["rater"]) for entry in store.export()]
    store.close()
    assert found == [("hers", "ann", "ann"), ("nobodys", "", "")]


def test_a_store_of_the_third_version_gets_room_for_better_answers_of_choices(tmp_path):
    import sqlalchemy as sql

    path = tmp_path / "feedback.sqlite"
    engine = sql.create_engine(f"sqlite:///{path}")
    then = without_later_columns(version=3)
    with engine.begin() as connection:
        then.create_all(connection)
        connection.execute(tables.versions.insert().values(version=3))
        for name in ("one", "two"):
            row = {**vars(answer(name, "text")), "messages": []}
            connection.execute(then.tables["answers"].insert().values(**row, created=1.0))
        choice = {"first": "one", "second": "two", "choice": "tie", "created": 2.0}
        connection.execute(then.tables["choices"].insert().values(**choice))
    engine.dispose()
    store = FeedbackStore(path)
    store.add_rating(Choice(first="one", second="two", choice="first", better_answer="Better."))
    found = [[given["better_answer"] for given in entry["choices"]] for entry in store.export()]
    store.close()
    assert found == [[None, "Better."]] * 2
    assert (tmp_path / "feedback.sqlite.schema-3").exists()


def fail_at_statement(monkeypatch, number):
    """Let the `number`-th change of the schema fail, as a full disk would."""
    from sqlalchemy.engine.default import DefaultDialect

    left = itertools.count(1)
    execute = DefaultDialect.do_execute
    bare = DefaultDialect.do_execute_no_params

    def counted(original):
        def run(self, cursor, text, *rest):
            if text.lstrip().upper().startswith(("CREATE", "INSERT")) and next(left) == number:
                raise RuntimeError("no room")
            return original(self, cursor, text, *rest)

        return run

    monkeypatch.setattr(DefaultDialect, "do_execute", counted(execute))
    monkeypatch.setattr(DefaultDialect, "do_execute_no_params", counted(bare))


def make_first_version(path):
    import sqlalchemy as sql

    engine = sql.create_engine(f"sqlite:///{path}")
    then = without_later_columns(version=1)
    first = [then.tables[name] for name in ("schema_version", "answers", "ratings")]
    with engine.begin() as connection:
        then.create_all(connection, tables=first)
        connection.execute(tables.versions.insert().values(version=1))
        row = {**vars(answer("old", "text")), "messages": [], "created": 1.0}
        connection.execute(first[1].insert().values(**{name: row[name] for name in row if name != "owner"}))
    engine.dispose()


def without_later_columns(*, version):
    """The tables as a version had them: SQL keeps no memory of its own past, so it is derived from what was added."""
    import sqlalchemy as sql

    later = {f"{column.table.name}.{column.name}" for number, added in tables.COLUMNS_ADDED_IN.items() if number > version for column in added}  # fmt: skip
    then = sql.MetaData()
    for table in tables.metadata.tables.values():
        columns = [column._copy() for column in table.columns if f"{table.name}.{column.name}" not in later]
        sql.Table(table.name, then, *columns)
    return then


def answer(id, text):
    return Answer(
        id=id, model="m", model_digest="d", messages=[Message("user", "Hello")], answer=text, sampling={}, finish="stop"
    )
