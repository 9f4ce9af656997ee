"""A study: items that people judge, who judged them and how. One database file; the items are frozen when it is made.

Every judgement is on disk when the call returns, and sent again with the same key it is stored once. Nothing is ever
deleted: undoing marks a judgement as retracted. What the judgements mean is `evaluate.people`'s.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import RowMapping

from chatwright.feedback.conversations import Message
from chatwright.feedback.database import StoreError, open_engine, unavailable
from chatwright.feedback.study import (
    CHOICES,
    DIMENSIONS,
    FINISHES,
    MAX_ITEMS,
    SCALE,
    Judgement,
    JudgementError,
    Place,
    Rater,
    RaterKind,
    Shown,
    Stored,
    StudyItem,
    StudyPlan,
    UnknownRaterError,
    passes,
)
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.foundation.storage import digest_json
from chatwright.foundation.streams import Permutation, seed_for

SCHEMA_VERSION = 1
_ADDED = ("messages", "finishes")  # of an item; studies of older versions do not have them

_metadata = sql.MetaData()
_study = sql.Table(
    "study", _metadata, sql.Column("key", sql.String(32), primary_key=True), sql.Column("value", sql.JSON)
)
_items = sql.Table(
    "study_items",
    _metadata,
    sql.Column("number", sql.Integer, primary_key=True),  # from 0, in the order of the study
    sql.Column("id", sql.String(200), nullable=False, unique=True),
    sql.Column("content", sql.JSON, nullable=False),
)
_raters = sql.Table(
    "raters",
    _metadata,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("name", sql.String(80), nullable=False, unique=True),
    sql.Column("kind", sql.String(8), sql.CheckConstraint("kind IN ('user', 'expert')"), nullable=False),
    sql.Column("token", sql.String(64), nullable=False, unique=True),
    sql.Column("created", sql.Float, nullable=False),
)
_judgements = sql.Table(
    "judgements",
    _metadata,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("rater", sql.ForeignKey("raters.number"), nullable=False, index=True),
    sql.Column("item", sql.ForeignKey("study_items.id"), nullable=False),
    sql.Column("occasion", sql.Integer, nullable=False),  # 0, or 1 where the item is shown again
    sql.Column("content", sql.JSON, nullable=False),
    sql.Column("key", sql.String(128), nullable=False),
    sql.Column("created", sql.Float, nullable=False),
    sql.Column("retracted", sql.Float),
    sql.UniqueConstraint("rater", "key", name="judgements_once_per_key"),
)
sql.Index(
    "judgements_once_per_place",
    _judgements.c.rater,
    _judgements.c.item,
    _judgements.c.occasion,
    unique=True,
    sqlite_where=_judgements.c.retracted.is_(None),
    postgresql_where=_judgements.c.retracted.is_(None),
)


class Study:
    """Items, raters and judgements in one database. Safe for several threads and processes.

    Args:
        place: a SQLite file, or any SQLAlchemy URL.
        clock: gives seconds since 1970.

    Raises:
        UsageError: there is no study yet and none is made here.
        RefusedError: not one of ours, or made by a newer version.
    """

    def __init__(self, place: str | Path, *, clock: Callable[[], float] = time.time):
        self._clock = clock
        self._engine = open_engine(place)
        try:
            if "study" not in sql.inspect(self._engine).get_table_names():
                raise UsageError(f"there is no study in `{place}`", hint="make one with `chatwright rate`")
            with self._engine.connect() as connection:
                told = {row.key: row.value for row in connection.execute(_study.select())}
                rows = connection.execute(_items.select().order_by(_items.c.number)).mappings().all()
        except sql.exc.DatabaseError as error:
            raise RefusedError(f"`{place}` is not a sound study: {error.orig}") from error
        if told.get("version") != SCHEMA_VERSION:
            raise RefusedError(
                f"the study was made by another version: {told.get('version')}", hint="upgrade chatwright"
            )
        self.plan = StudyPlan(**told["plan"])
        self.items = {row["id"]: _item_of(row) for row in rows}
        self.digest = str(told["digest"])
        if self.digest != _digest(list(self.items.values())):
            raise RefusedError("the study's items were changed after it was made", kept="the judgements")

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def join(self, name: str, kind: RaterKind) -> Rater:
        """The rater of this name, new or known.

        Raises:
            UsageError: an unusable name, or the name belongs to a rater of the other kind.
        """
        plain = " ".join(name.split())
        if not 1 <= len(plain) <= 80:
            raise UsageError("a name needs between 1 and 80 characters")
        with self._writing() as connection:
            row = connection.execute(_raters.select().where(_raters.c.name == plain)).mappings().first()
            if row is None:
                values = {"name": plain, "kind": kind, "token": secrets.token_urlsafe(18), "created": self._clock()}
                connection.execute(_raters.insert().values(**values))
                row = connection.execute(_raters.select().where(_raters.c.name == plain)).mappings().one()
        if row["kind"] != kind:
            raise UsageError(f"`{plain}` has joined as {row['kind']}; users and experts are kept apart")
        return _rater_of(row)

    def rater(self, token: str) -> Rater:
        """The rater with this token.

        Raises:
            UnknownRaterError: there is none.
        """
        with self._engine.connect().execution_options(chatwright_reads_only=True) as connection:
            row = connection.execute(_raters.select().where(_raters.c.token == token)).mappings().first()
        if row is None:
            raise UnknownRaterError("this invitation is not known here")
        return _rater_of(row)

    def course(self, rater: Rater) -> list[Place]:
        """The rater's items in their order: a pure function of the study and the rater's number."""
        ids = list(self.items)
        shared = round(len(ids) * self.plan.shared_share)
        order = Permutation(len(ids), seed_for(self.plan.seed, "study"))
        mine = [
            ids[order[position]]
            for position in range(len(ids))
            if position < shared or position % self.plan.raters == (rater.number - 1) % self.plan.raters
        ]
        shuffle = Permutation(max(1, len(mine)), seed_for(self.plan.seed, "rater", rater.number))
        first = [Place(mine[shuffle[position]], 0) for position in range(len(mine))]
        repeats = [place for place in first if self.items[place.item].check is None]
        count = int(len(repeats) * self.plan.repeat_share)
        return first + [Place(place.item, 1) for place in repeats[:count]]

    def is_swapped(self, rater: Rater, place: Place) -> bool:
        """Whether the second answer of a pair is shown first; the repeat shows them the other way round."""
        number = list(self.items).index(place.item)
        return bool((seed_for(self.plan.seed, "side", rater.number, number) ^ place.occasion) & 1)

    def next(self, rater: Rater) -> Shown:
        """What is to be judged now."""
        course = self.course(rater)
        with self._engine.connect().execution_options(chatwright_reads_only=True) as connection:
            query = sql.select(_judgements.c.item, _judgements.c.occasion).where(
                (_judgements.c.rater == rater.number) & _judgements.c.retracted.is_(None)
            )
            done = {Place(item, occasion) for item, occasion in connection.execute(query)}
        left = [place for place in course if place not in done]
        if not left:
            return Shown(None, None, is_swapped=False, done=len(course), total=len(course))
        item = self.items[left[0].item]
        swapped = item.kind == "pair" and self.is_swapped(rater, left[0])
        return Shown(left[0], item, is_swapped=swapped, done=len(course) - len(left), total=len(course))

    def judge(self, rater: Rater, judgement: Judgement) -> Stored:
        """Store a judgement; it is on disk when this returns.

        Raises:
            JudgementError: it does not fit its item, the item is not this rater's, it was judged already, or the key
                stands for another judgement.
        """
        self._require_sound(rater, judgement)
        content = {name: value for name, value in asdict(judgement).items() if name not in ("item", "occasion", "key")}
        try:
            with self._writing() as connection:
                same = (_judgements.c.rater == rater.number) & (_judgements.c.key == judgement.key)
                before = connection.execute(_judgements.select().where(same)).mappings().first()
                if before is not None:
                    return _replayed(before, judgement, content)
                done = connection.execute(
                    _judgements.insert().values(
                        rater=rater.number,
                        item=judgement.item,
                        occasion=judgement.occasion,
                        content=content,
                        key=judgement.key,
                        created=self._clock(),
                    )
                )
        except sql.exc.IntegrityError as error:
            raise JudgementError(f"`{judgement.item}` was judged already", hint="undo it first") from error
        key = done.inserted_primary_key
        assert key is not None, "the table has a primary key"  # noqa: S101 - what we promise ourselves
        return Stored(key[0], is_new=True)

    def undo(self, rater: Rater, *, judgement_id: int) -> bool:
        """Retract a judgement of this rater; retracting it again changes nothing. False if there is no such one."""
        mine = (_judgements.c.id == judgement_id) & (_judgements.c.rater == rater.number)
        with self._writing() as connection:
            row = connection.execute(_judgements.select().where(mine)).mappings().first()
            if row is not None and row["retracted"] is None:
                connection.execute(_judgements.update().where(mine).values(retracted=self._clock()))
        return row is not None

    def last(self, rater: Rater) -> int | None:
        """The id of this rater's latest judgement that stands."""
        query = sql.select(sql.func.max(_judgements.c.id)).where(
            (_judgements.c.rater == rater.number) & _judgements.c.retracted.is_(None)
        )
        with self._engine.connect().execution_options(chatwright_reads_only=True) as connection:
            newest: int | None = connection.execute(query).scalar()
        return newest

    def export(self) -> Iterator[dict[str, Any]]:
        """Every judgement that stands, oldest first, with its item, its models and its rater."""
        query = (
            sql.select(_judgements, _raters.c.name, _raters.c.kind)
            .join(_raters, _raters.c.number == _judgements.c.rater)
            .where(_judgements.c.retracted.is_(None))
            .order_by(_judgements.c.id)
        )
        with self._engine.connect().execution_options(chatwright_reads_only=True) as connection:
            rows = connection.execute(query).mappings().all()
        for row in rows:
            item = self.items[row["item"]]
            yield {
                "id": row["id"],
                "rater": row["name"],
                "rater_kind": row["kind"],
                "item": item.id,
                "occasion": row["occasion"],
                "item_kind": item.kind,
                "models": list(item.models),
                "asked": item.asked,
                "messages": [message._asdict() for message in item.messages],
                "answers": list(item.answers),
                "finishes": list(item.finishes),
                "topic": item.topic,
                "reference": item.reference,
                "is_check": item.check is not None,
                "passed": None if item.check is None else passes(item, row["content"]),
                "created": row["created"],
                **row["content"],
            }

    def _writing(self) -> Any:
        try:
            return self._engine.begin()
        except sql.exc.DBAPIError as error:
            raise unavailable(error) from error

    def _require_sound(self, rater: Rater, judgement: Judgement) -> None:
        item = self.items.get(judgement.item)
        if item is None or Place(judgement.item, judgement.occasion) not in self.course(rater):
            raise JudgementError(f"`{judgement.item}` is not among this rater's items")
        low, high = SCALE
        if item.kind == "scale":
            fits = sorted(judgement.scores) == sorted(DIMENSIONS) and judgement.choice is None
            if not fits or not all(type(v) is int and low <= v <= high for v in judgement.scores.values()):
                raise JudgementError(f"an answer needs {', '.join(DIMENSIONS)}, each from {low} to {high}")
        elif judgement.scores or judgement.choice not in CHOICES:
            raise JudgementError(f"a pair needs one of {', '.join(CHOICES)}")


def make_study(place: str | Path, items: Sequence[StudyItem], plan: StudyPlan) -> None:
    """Make a study and freeze its items.

    Raises:
        UsageError: no items, too many, two of one id, an item with other than one or two answers or with other ends
            than these may have, or a study that is there already.
        StoreError: the database cannot be written.
    """
    problems = [f"`{item.id}` has {len(item.answers)} answers" for item in items if len(item.answers) not in (1, 2)]
    problems += [
        f"`{item.id}` names {len(item.models)} models" for item in items if len(item.models) != len(item.answers)
    ]
    problems += [
        f"`{item.id}` does not say of each answer how it ended: {item.finishes}"
        for item in items
        if item.finishes and (len(item.finishes) != len(item.answers) or not set(item.finishes) <= set(FINISHES))
    ]
    if len({item.id for item in items}) != len(items):
        problems.append("two items have the same id")
    if not 1 <= len(items) <= MAX_ITEMS:
        problems.append(f"a study has between 1 and {MAX_ITEMS} items, this one {len(items)}")
    if problems:
        raise UsageError("; ".join(problems[:10]))
    engine = open_engine(place)
    try:
        if "study" in sql.inspect(engine).get_table_names():
            raise UsageError(f"there is a study in `{place}` already", hint="open it, or name another file")
        with engine.begin() as connection:
            _metadata.create_all(connection)
            told = {"version": SCHEMA_VERSION, "plan": asdict(plan), "digest": _digest(items)}
            connection.execute(_study.insert(), [{"key": key, "value": value} for key, value in told.items()])
            rows = [{"number": n, "id": item.id, "content": _content(item)} for n, item in enumerate(items)]
            connection.execute(_items.insert(), rows)
    except sql.exc.DBAPIError as error:
        raise StoreError(f"the study cannot be made: {error.orig}") from error
    finally:
        engine.dispose()


def _content(item: StudyItem) -> dict[str, Any]:
    """As it is stored; what studies of older versions did not have is left out where it is empty: digests stay."""
    value: dict[str, Any] = json.loads(json.dumps(asdict(item)))
    value["messages"] = [message._asdict() for message in item.messages]
    return {name: told for name, told in value.items() if told or name not in _ADDED}


def _digest(items: Sequence[StudyItem]) -> str:
    return digest_json([_content(item) for item in items])


def _item_of(row: RowMapping) -> StudyItem:
    content = dict(row["content"])
    turns = tuple(Message(**message) for message in content.get("messages", ()))
    texts = {name: tuple(content.get(name, ())) for name in ("answers", "models", "finishes")}
    return StudyItem(**{**content, **texts, "messages": turns})


def _rater_of(row: RowMapping) -> Rater:
    return Rater(row["number"], row["name"], row["kind"], row["token"])


def _replayed(before: RowMapping, judgement: Judgement, content: dict[str, Any]) -> Stored:
    told = (before["item"], before["occasion"], before["content"])
    if told != (judgement.item, judgement.occasion, content):
        raise JudgementError(f"the key `{judgement.key}` stands for another judgement", kept="the earlier one")
    return Stored(before["id"], is_new=False)
