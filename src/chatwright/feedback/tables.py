"""Every table of the feedback database, so that its shape and its migrations stand in one place each.

Not for queries: `store` and its siblings make those. `database` opens, creates and migrates.
"""

import sqlalchemy as sql

metadata = sql.MetaData()


def _whose() -> tuple[sql.Column[str], sql.Column[str]]:
    """Whose opinion a row is, and in which role it was given."""
    return (
        sql.Column("rater", sql.String(128), nullable=False, server_default=""),
        sql.Column("role", sql.String(8), nullable=False, server_default="user"),
    )


versions = sql.Table("schema_version", metadata, sql.Column("version", sql.Integer, primary_key=True))

answers = sql.Table(
    "answers",
    metadata,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),  # the order of writing, for export
    sql.Column("id", sql.String(128), nullable=False, unique=True),
    sql.Column("created", sql.Float, nullable=False),  # seconds since 1970
    sql.Column("model", sql.Text, nullable=False),
    sql.Column("model_digest", sql.Text, nullable=False),
    sql.Column("messages", sql.JSON, nullable=False),
    sql.Column("answer", sql.Text, nullable=False),
    sql.Column("sampling", sql.JSON, nullable=False),
    sql.Column("finish", sql.String(16), nullable=False),
    sql.Column("owner", sql.String(128), nullable=False, server_default="", index=True),  # who asked; "": nobody's name
)

ratings = sql.Table(
    "ratings",
    metadata,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("answer_id", sql.ForeignKey("answers.id"), nullable=False, index=True),
    sql.Column("thumb", sql.SmallInteger, sql.CheckConstraint("thumb IN (-1, 1)"), nullable=False),
    sql.Column("reason", sql.Text),
    sql.Column("better_answer", sql.Text),
    sql.Column("key", sql.String(128)),
    sql.Column("created", sql.Float, nullable=False),
    *_whose(),
    sql.UniqueConstraint("answer_id", "key", name="ratings_once_per_key"),
)

# Since version 2: choices between two answers, and the conversations of the chat page.

choices = sql.Table(
    "choices",
    metadata,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("first", sql.ForeignKey("answers.id"), nullable=False, index=True),  # as the person saw them
    sql.Column("second", sql.ForeignKey("answers.id"), nullable=False, index=True),
    sql.Column("choice", sql.String(16), nullable=False),
    sql.Column("reason", sql.Text),
    sql.Column("better_answer", sql.Text),  # since version 4
    sql.Column("key", sql.String(128)),
    sql.Column("created", sql.Float, nullable=False),
    *_whose(),
    sql.CheckConstraint("choice IN ('first', 'second', 'tie', 'both_bad')", name="choices_are_known"),
    sql.UniqueConstraint("first", "second", "key", name="choices_once_per_key"),
)

conversations = sql.Table(
    "conversations",
    metadata,
    sql.Column("id", sql.String(64), primary_key=True),
    sql.Column("owner", sql.String(128), nullable=False, index=True),
    sql.Column("title", sql.Text, nullable=False),
    sql.Column("system", sql.Text, nullable=False),
    sql.Column("settings", sql.JSON, nullable=False),
    sql.Column("leaf", sql.String(64)),  # the turn at which the person stands; branches hang beside its ancestors
    sql.Column("created", sql.Float, nullable=False),
    sql.Column("updated", sql.Float, nullable=False, index=True),
)

turns = sql.Table(
    "turns",
    metadata,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),  # siblings stand in this order
    sql.Column("id", sql.String(64), nullable=False, unique=True),
    sql.Column("conversation", sql.ForeignKey("conversations.id"), nullable=False, index=True),
    sql.Column("parent", sql.String(64)),
    sql.Column("role", sql.String(16), nullable=False),
    sql.Column("content", sql.Text, nullable=False),
    sql.Column("created", sql.Float, nullable=False),
    sql.Column("finish", sql.String(16)),  # of an answer: how it ended; NULL while it is written
    sql.Column("answer", sql.String(128), unique=True),  # its id among the answers
    sql.Column("model", sql.Text),
    sql.Column("pair", sql.String(64), index=True),  # two answers side by side share it
    sql.Column("side", sql.String(8)),  # `left` or `right` of its pair
)

# Since version 3: whose an answer and an opinion are, scores from the page for raters, and who agreed to the use.

scores = sql.Table(
    "scores",
    metadata,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("answer_id", sql.ForeignKey("answers.id"), nullable=False, index=True),
    sql.Column("score", sql.Float, nullable=False),  # mean of the aspects, 1 to 5
    sql.Column("aspects", sql.JSON, nullable=False),
    sql.Column("reason", sql.Text),
    sql.Column("better_answer", sql.Text),
    sql.Column("key", sql.String(128)),
    sql.Column("created", sql.Float, nullable=False),
    *_whose(),
    sql.UniqueConstraint("answer_id", "key", name="scores_once_per_key"),
)

people = sql.Table(
    "people",
    metadata,
    sql.Column("name", sql.String(128), primary_key=True),
    sql.Column("consents", sql.Boolean, nullable=False),  # to being learned from
    sql.Column("changed", sql.Float, nullable=False),
)

# What each version of the schema brought.
ADDED_IN: dict[int, tuple[sql.Table, ...]] = {2: (choices, conversations, turns), 3: (scores, people), 4: ()}
COLUMNS_ADDED_IN: dict[int, tuple[sql.Column[str], ...]] = {
    3: (answers.c.owner, ratings.c.rater, ratings.c.role, choices.c.rater, choices.c.role),
    4: (choices.c.better_answer,),
}
