"""Every table of the feedback database, so that its shape and its migrations stand in one place each.

Not for queries: `store` and its siblings make those. `database` opens, creates and migrates.
"""

import sqlalchemy as sql

metadata = sql.MetaData()

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
    sql.Column("key", sql.String(128)),
    sql.Column("created", sql.Float, nullable=False),
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

ADDED_IN = {2: (choices, conversations, turns)}  # the tables that each version of the schema brought
