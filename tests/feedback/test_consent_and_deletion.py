"""Consent, and the end of a person in the store."""

import pytest
from test_store import answer

from chatwright.feedback.history import Turn
from chatwright.feedback.store import Choice, FeedbackStore, Rating, Score, StoreError


@pytest.fixture
def store(tmp_path):
    opened = FeedbackStore(tmp_path / "feedback.sqlite", clock=lambda: 1000.0)
    yield opened
    opened.close()


def given(store, name, *, owner):
    store.add_answer(type(answer(name))(**{**vars(answer(name)), "owner": owner}))


def test_guests_must_agree_and_the_owner_must_not_have_refused(store):
    assert store.people.consent("ann") is None
    assert (store.people.agreed()("ann"), store.people.agreed()("")) == (False, True)
    store.people.set_consent("ann", agrees=True)
    store.people.set_consent("", agrees=False)
    assert (store.people.agreed()("ann"), store.people.agreed()("")) == (True, False)
    store.people.set_consent("ann", agrees=False)
    assert store.people.consent("ann") is False


def test_an_export_says_of_answers_and_opinions_whether_they_may_be_learned_from(store):
    given(store, "a", owner="ann")
    store.people.set_consent("ben", agrees=True)
    for rater in ("ann", "ben"):
        store.add_rating(Rating(answer_id="a", thumb=1, rater=rater))
    (entry,) = store.export()
    assert (entry["owner"], entry["consent"]) == ("ann", False)
    assert [(rating["rater"], rating["consent"]) for rating in entry["ratings"]] == [("ann", False), ("ben", True)]


def test_forgetting_takes_what_is_theirs_and_what_hangs_on_it_and_nothing_else(store):
    for name, owner in (("a", "ann"), ("b", "ben"), ("c", "ben")):
        given(store, name, owner=owner)
    store.history.create("ann", id="t", title="", system="", settings={})
    store.history.add("ann", "t", [Turn(id="q", parent=None, role="user", content="Secret")])
    store.add_rating(Rating(answer_id="a", thumb=1, rater="ben"))
    store.add_rating(Rating(answer_id="b", thumb=1, rater="ann"))
    store.add_rating(Rating(answer_id="b", thumb=-1, rater="ben"))
    store.add_rating(Choice(first="a", second="b", choice="first", rater="ben"))
    store.add_rating(Choice(first="b", second="c", choice="first", rater="ben"))
    store.add_rating(Score(answer_id="c", score=3.0, rater="ann"))
    store.people.set_consent("ann", agrees=True)
    gone = store.people.forget("ann")
    assert (gone.conversations, gone.answers, gone.opinions, gone.answer_ids) == (1, 1, 4, ("a",))
    left = list(store.export())
    assert [entry["id"] for entry in left] == ["b", "c"]
    assert [rating["rater"] for rating in left[0]["ratings"]] == ["ben"]
    assert (len(left[0]["choices"]), left[1]["scores"]) == (1, [])
    assert (store.history.find("ann"), store.people.consent("ann")) == ([], None)


def test_forgetting_somebody_unknown_changes_nothing(store):
    given(store, "a", owner="ann")
    assert store.people.forget("nobody")[:3] == (0, 0, 0)
    assert len(list(store.export())) == 1


def test_a_person_with_more_answers_than_a_statement_can_name_is_forgotten_whole(store):
    for number in range(1_203):
        given(store, f"a{number}", owner="ann")
    assert store.people.forget("ann").answers == 1_203


def on_disk(folder):
    """All that the store's files hold, its log and copies with them."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize("takes_back", ["everything", "a conversation"])
def test_what_a_person_takes_back_is_in_no_file_beside_the_store_either(store, tmp_path, takes_back):
    given(store, "kept", owner="ben")
    store.history.create("ann", id="t", title="", system="", settings={})
    store.history.add("ann", "t", [Turn(id="q", parent=None, role="user", content="Unspeakable")])
    for name in ("feedback.sqlite.schema-3", ".feedback.sqlite.schema-1.partial"):
        (tmp_path / name).write_text("Unspeakable")
    (tmp_path / "feedback.sqlite.schema-notes").write_text("of somebody")
    assert b"Unspeakable" in on_disk(tmp_path)
    if takes_back == "everything":
        store.people.forget("ann")
    else:
        store.history.delete("ann", "t")
    assert b"Unspeakable" not in on_disk(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left >= {"feedback.sqlite", "feedback.sqlite.schema-notes"}
    assert not left & {"feedback.sqlite.schema-3", ".feedback.sqlite.schema-1.partial"}
    assert [entry["id"] for entry in store.export()] == ["kept"]


def test_a_copy_that_cannot_be_removed_is_told_and_asking_again_removes_it(store, tmp_path):
    given(store, "a", owner="ann")
    (tmp_path / "feedback.sqlite.schema-3").mkdir()
    with pytest.raises(StoreError, match="deleted from the feedback store, but an older copy"):
        store.people.forget("ann")
    assert list(store.export()) == []
    (tmp_path / "feedback.sqlite.schema-3").rmdir()
    store.people.forget("ann")
