"""Statements that the two databases spell differently, and those that have to be fast."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

from sqlalchemy import JSON, ColumnElement, Connection, Dialect, Row, Table, Text, any_, literal
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError

from autotrain_cloud.store.plain import to_json

_UNIQUE_VIOLATION = "23505"  # of SQL


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
) -> int:
    """The same for many whole rows at a fraction of the cost; -> how many are new."""
    names, as_json = _columns(table)
    values = [
        tuple(to_json(row[name]) if name in as_json else row[name] for name in names)
        for row in rows
    ]
    return insert_values(db, table, names, values, conflict=conflict)


def insert_values(
    db: Connection,
    table: Table,
    names: tuple[str, ...],
    rows: Sequence[tuple[Any, ...]],
    *,
    conflict: str = "DO NOTHING",
) -> int:
    """The same for values in the order of these columns, JSON as text: the statement is prepared
    once, and values are handed over as they are.
    """
    if not rows:
        return 0
    if (
        db.dialect.name == "postgresql"
        and conflict == "DO NOTHING"
        and _copied(db, table, names, rows)
    ):
        return len(rows)
    statement = _insertion(table, names, db.dialect.name, conflict)
    done = db.exec_driver_sql(statement, rows, execution_options={"preserve_rowcount": True})
    return done.rowcount


def _copied(
    db: Connection, table: Table, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]
) -> bool:
    """PostgreSQL takes rows fastest by COPY; -> no: one of them is there already, so none is in."""
    statement = f"COPY {table.name} ({', '.join(names)}) FROM STDIN (FORMAT BINARY)"
    kinds, as_json = _binary(table, names)
    connection: Any = db.connection.driver_connection
    error_kind = db.dialect.loaded_dbapi.Error
    try:
        with db.begin_nested():
            try:
                with connection.cursor() as cursor, cursor.copy(statement) as copy:
                    copy.set_types(kinds)
                    for row in rows:
                        copy.write_row(_versioned(row, as_json) if as_json else row)
            except error_kind as error:
                lost = db.dialect.is_disconnect(error, connection, None)
                raise DBAPIError.instance(
                    statement, None, error, error_kind, connection_invalidated=lost,
                    dialect=db.dialect,
                ) from error  # fmt: skip
    except IntegrityError as error:
        if getattr(error.orig, "sqlstate", None) != _UNIQUE_VIOLATION:
            raise
        return False
    return True


@cache
def _binary(table: Table, names: tuple[str, ...]) -> tuple[list[str], tuple[int, ...]]:
    """Types of these columns, for rows that are sent as PostgreSQL keeps them; which are JSON."""
    json_names, dialect = _columns(table)[1], _dialect("postgresql")
    as_json = tuple(at for at, name in enumerate(names) if name in json_names)
    kinds = [table.c[name].type.compile(dialect).lower() for name in names]
    for at in as_json:
        kinds[at] = "bytea"
    return kinds, as_json


def _versioned(row: tuple[Any, ...], as_json: tuple[int, ...]) -> list[Any]:
    """With the byte that PostgreSQL has before JSON."""
    values = list(row)
    for at in as_json:
        values[at] = b"\x01" + values[at].encode()
    return values


def insert_returning(
    db: Connection,
    table: Table,
    names: tuple[str, ...],
    rows: Sequence[tuple[Any, ...]],
    returning: str,
) -> Sequence[Row[Any]]:
    """INSERT of so many rows in one statement; -> these columns of them, in any order."""
    statement = _returning(table, names, len(rows), db.dialect.name, returning)
    return db.exec_driver_sql(statement, tuple(chain.from_iterable(rows))).all()


@cache
def _returning(
    table: Table, names: tuple[str, ...], count: int, dialect: str, returning: str
) -> str:
    mark = "%s" if dialect == "postgresql" else "?"
    row = f"({', '.join([mark] * len(names))})"
    into = f"INSERT INTO {table.name} ({', '.join(names)})"
    return f"{into} VALUES {', '.join([row] * count)} RETURNING {returning}"


def rows_in(db: Connection, statement: str, *values: Collection[Any]) -> Sequence[Row[Any]]:
    """What a statement finds that has `IN {}` for each of these collections.

    However many values there are, it is the same statement, so it is prepared once.
    """
    if db.dialect.name == "postgresql":
        found = db.exec_driver_sql(
            statement.replace("IN {}", "= ANY(%s)"), tuple(list(some) for some in values)
        )
    else:
        found = db.exec_driver_sql(
            statement.replace("{}", "(SELECT value FROM json_each(?))"),
            tuple(json.dumps(list(some)) for some in values),
        )
    return found.all() if found.returns_rows else ()


@cache
def _columns(table: Table) -> tuple[tuple[str, ...], frozenset[str]]:
    """-> all, those that are JSON."""
    as_json = (column.name for column in table.columns if isinstance(column.type, JSON))
    return tuple(column.name for column in table.columns), frozenset(as_json)


@cache
def _insertion(table: Table, names: tuple[str, ...], dialect: str, conflict: str) -> str:
    if dialect == "postgresql":
        as_json = _columns(table)[1]
        marks = ["%s::jsonb" if name in as_json else "%s" for name in names]
    else:
        marks = ["?"] * len(names)
    quote = _dialect(dialect).identifier_preparer.quote
    columns = ", ".join(quote(name) for name in names)
    statement = f"INSERT INTO {table.name} ({columns}) VALUES ({', '.join(marks)})"
    return f"{statement} ON CONFLICT {conflict}"


def _dialect(name: str) -> Dialect:
    dialect: Any = postgresql.dialect if name == "postgresql" else sqlite.dialect
    made: Dialect = dialect()
    return made
