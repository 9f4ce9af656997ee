"""Feedback from elsewhere into the store: an export of another store, or what people said on the page for raters.

Importing the same again adds nothing. Not for training data of other shapes: `align.data` reads those.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.feedback.conversations import Message
from chatwright.feedback.store import Answer, Choice, FeedbackStore, Rating, Score
from chatwright.feedback.study import FINISHES
from chatwright.foundation.errors import DataError
from chatwright.foundation.storage import digest_json

MAX_LINE_BYTES = 8 << 20
_SIDES = {("first", "won"): "first", ("first", "lost"): "second", ("second", "won"): "second"}
_SIDES |= {("second", "lost"): "first"}


class Imported(NamedTuple):
    """What came in; the rest was there before."""

    answers: int
    opinions: int
    passed_over: dict[str, int]  # by reason


def read_export(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a file that `feedback export` wrote.

    Raises:
        DataError: it cannot be read, or a line is no such entry, with its number.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
                if raw.strip():
                    yield _checked(raw, f"{path}:{number}")
    except OSError as error:
        raise DataError(
            f"`{path}` cannot be read: {error.strerror}", hint="give a file of `feedback export`"
        ) from error


def _checked(raw: bytes, where: str) -> dict[str, Any]:
    try:
        if len(raw) > MAX_LINE_BYTES:
            raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
        entry = json.loads(raw)
        if not isinstance(entry, dict) or not all(isinstance(entry[name], str) for name in ("id", "model", "answer")):
            raise ValueError("expected an object with `id`, `model` and `answer`")
        messages = entry["messages"]
        if not all(isinstance(m["role"], str) and isinstance(m["content"], str) for m in messages):
            raise ValueError("expected `messages` with `role` and `content`")
        if entry["finish"] not in FINISHES:
            raise ValueError(f"expected `finish` to be one of {', '.join(FINISHES)}")
        float(entry["created"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"`{where}` is no entry of an export: {error}", kept="the lines before it", hint="export it again"
        ) from error
    return entry


def import_entries(store: FeedbackStore, entries: Iterable[dict[str, Any]]) -> Imported:
    """Put an export's answers and opinions into a store, with their times, raters and roles.

    Raises:
        DataError: an opinion that has not the shape of one.
        StoreError: the database cannot be written; what came before stays.
    """
    listed = list(entries)
    answers = sum(_add_answer(store, entry) for entry in listed)
    known = {entry["id"] for entry in store.export()}
    opinions, passed_over = 0, Counter[str]()
    told = [one for entry in listed for one in _opinions(entry)]
    for created, given in sorted(told, key=lambda one: one[0]):  # where nobody has a name, the last one counts
        if not set(given.answer_ids) <= known:
            passed_over["the other answer of a choice is not in the file"] += 1
            continue
        opinions += store.add_rating(given, created=created).is_new
    _take_over_consent(store, listed)
    return Imported(answers, opinions, dict(passed_over))


def _take_over_consent(store: FeedbackStore, entries: Iterable[dict[str, Any]]) -> None:
    """Who agreed there, agrees here, unless they said something here; the owner's refusal likewise."""
    told = {str(entry.get("owner", "")): entry.get("consent") for entry in entries}
    for entry in entries:
        for kind in ("ratings", "scores", "choices"):
            told |= {str(item.get("rater", "")): item.get("consent") for item in entry.get(kind, ())}
    for name, agrees in told.items():
        if agrees is (name != "") and store.people.consent(name) is None:
            store.people.set_consent(name, agrees=bool(agrees))


def _add_answer(store: FeedbackStore, entry: dict[str, Any]) -> bool:
    if store.answer(entry["id"]) is not None:
        return False
    answer = Answer(
        id=entry["id"],
        model=entry["model"],
        model_digest=str(entry.get("model_digest", "")),
        messages=[Message(message["role"], message["content"]) for message in entry["messages"]],
        answer=entry["answer"],
        sampling=entry.get("sampling") or {},
        finish=entry["finish"],
        owner=str(entry.get("owner", "")),
    )
    store.add_answer(answer, created=float(entry["created"]))
    return True


def _opinions(entry: dict[str, Any]) -> Iterator[tuple[float, Rating | Choice | Score]]:
    """Each opinion once: a choice stands with both of its answers, and is taken from the one that was shown first."""
    try:
        for kind in ("ratings", "scores", "choices"):
            for item in entry.get(kind, ()):
                given = _opinion(entry["id"], kind, item)
                if given is not None:
                    yield float(item["created"]), given
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"an opinion of answer `{entry['id']}` is not as exports have it: {error!r}") from error


def _opinion(answer_id: str, kind: str, item: dict[str, Any]) -> Rating | Choice | Score | None:
    whose: dict[str, Any] = {"rater": str(item.get("rater", "")), "role": item.get("role", "user")}
    whose |= {"reason": item.get("reason"), "key": f"import-{digest_json([answer_id, kind, _told(kind, item)])[:32]}"}
    if kind == "ratings":
        return Rating(answer_id=answer_id, thumb=item["thumb"], better_answer=item.get("better_answer"), **whose)
    if kind == "scores":
        aspects, better = item.get("aspects") or {}, item.get("better_answer")
        return Score(answer_id=answer_id, score=float(item["score"]), aspects=aspects, better_answer=better, **whose)
    if item["shown"] != "first":
        return None
    choice = _SIDES.get((item["shown"], item["choice"]), item["choice"])
    better = item.get("better_answer")
    return Choice(first=answer_id, second=item["against"], choice=choice, better_answer=better, **whose)


def _told(kind: str, item: dict[str, Any]) -> dict[str, Any]:
    """What an opinion says, without what another database calls it or thinks of its person.

    Choices of older exports know of no better answer: one without it must have the same name as they.
    """
    told = {name: value for name, value in item.items() if name not in ("id", "consent")}
    if kind == "choices" and told.get("better_answer") is None:
        told.pop("better_answer", None)
    return told


def import_study(store: FeedbackStore, judgements: Iterable[dict[str, Any]]) -> Imported:
    """Put what people said on the page for raters (`Study.export`) into a store; checks and repeats are passed over.

    Who takes part in a study agrees to its use. Its raters stay apart from people of the same name in the chat.
    """
    answers = opinions = 0
    passed_over = Counter[str]()
    for told in judgements:
        if told["is_check"] or told["occasion"]:
            passed_over["an attention check" if told["is_check"] else "the same item again"] += 1
            continue
        entries = [_of_study(told, place) for place in range(len(told["answers"]))]
        answers += sum(_add_answer(store, entry) for entry in entries)
        if store.people.consent(rater_of(told)) is None:
            store.people.set_consent(rater_of(told), agrees=True)
        for given in _of_judgement(told, [entry["id"] for entry in entries]):
            opinions += store.add_rating(given, created=told["created"]).is_new
    return Imported(answers, opinions, dict(passed_over))


def rater_of(told: dict[str, Any]) -> str:
    """A study's rater as a person of the store."""
    return f"study:{told['rater']}"


def _of_study(told: dict[str, Any], place: int) -> dict[str, Any]:
    asked, answer, model = told["asked"], told["answers"][place], told["models"][place]
    question = [{"role": "user", "content": asked}]  # studies of older versions do not tell the turns
    turns = told.get("messages") or question
    finishes = told.get("finishes")  # nor do they tell, or items of a file, how an answer ended
    name = digest_json([told["item"], asked, answer, model, *([turns] if turns != question else [])])[:32]
    return {
        "id": f"study-{name}",
        "model": model,
        "messages": turns,
        "answer": answer,
        "finish": finishes[place] if finishes else "stop",
        "created": told["created"],
        "owner": "",
    }


def _of_judgement(told: dict[str, Any], ids: list[str]) -> Iterator[Rating | Choice | Score]:
    whose: dict[str, Any] = {"rater": rater_of(told), "role": told["rater_kind"], "reason": told["note"]}
    whose["key"] = f"study-{digest_json([told['item'], told['rater'], told['created']])[:32]}"
    if len(ids) > 1:
        yield Choice(first=ids[0], second=ids[1], choice=told["choice"], better_answer=told["better"], **whose)
        return
    mean = sum(told["scores"].values()) / len(told["scores"])
    yield Score(answer_id=ids[0], score=mean, aspects=told["scores"], better_answer=told["better"], **whose)
