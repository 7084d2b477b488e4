"""Statements that the two databases spell differently, and those that have to be fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import JSON, ColumnElement, Connection, Dialect, Table, Text, any_, literal
from sqlalchemy.dialects import postgresql, sqlite

from autotrain_cloud.store.plain import to_json


def upsert(db: Connection, table: Table) -> Any:
    """INSERT of this database, for `on_conflict_do_update`."""
    if db.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def among(db: Connection, column: ColumnElement[str], values: Sequence[str]) -> ColumnElement[bool]:
    """Whether the column has one of these. For PostgreSQL in a single parameter: with one for each
    it is the statement that takes the time.
    """
    if db.dialect.name == "postgresql":
        return column == any_(literal(list(values), postgresql.ARRAY(Text)))
    return column.in_(values)


def insert_new(db: Connection, table: Table) -> Any:
    """INSERT that leaves alone what is there already."""
    return upsert(db, table).on_conflict_do_nothing()


def insert_many(
    db: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, conflict: str = "DO NOTHING"
) -> None:
    """The same for many whole rows at a fraction of the cost: the statement is prepared once, and
    values are handed over as they are.
    """
    if not rows:
        return
    statement, names, as_json = _prepared(table, db.dialect.name, conflict)
    values = [
        tuple(to_json(row[name]) if name in as_json else row[name] for name in names)
        for row in rows
    ]
    db.exec_driver_sql(statement, values)


@cache
def _prepared(
    table: Table, dialect: str, conflict: str
) -> tuple[str, tuple[str, ...], frozenset[str]]:
    """-> statement, columns in its order, those that are JSON."""
    names = tuple(column.name for column in table.columns)
    as_json = frozenset(column.name for column in table.columns if isinstance(column.type, JSON))
    if dialect == "postgresql":
        marks = ["%s::jsonb" if name in as_json else "%s" for name in names]
    else:
        marks = ["?"] * len(names)
    quote = _dialect(dialect).identifier_preparer.quote
    columns = ", ".join(quote(name) for name in names)
    statement = f"INSERT INTO {table.name} ({columns}) VALUES ({', '.join(marks)})"
    return f"{statement} ON CONFLICT {conflict}", names, as_json


def _dialect(name: str) -> Dialect:
    dialect: Any = postgresql.dialect if name == "postgresql" else sqlite.dialect
    made: Dialect = dialect()
    return made
