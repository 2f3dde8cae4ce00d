"""PostgreSQL with pgvector: a table."""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from lightning_normdyn.datasets.payload_columns import json_value
from lightning_normdyn.passwords import without_passwords
from lightning_normdyn.retrieval.indexes.manifest import Manifest
from lightning_normdyn.retrieval.indexes.refusals import check_existing_ids, check_fresh, check_index, check_upsert
from lightning_normdyn.retrieval.indexes.search_width import SearchWidth
from lightning_normdyn.retrieval.indexes.writer import (
    Contents,
    Destination,
    IndexTarget,
    Metric,
    SearchPlan,
    SearchResult,
    in_plain_words,
    optional,
    stored_dtype,
)

_OPERATORS: dict[Metric, str] = {"inner_product": "<#>", "euclidean": "<->", "cosine": "<=>"}
_OPCLASSES: dict[Metric, str] = {"inner_product": "ip_ops", "euclidean": "l2_ops", "cosine": "cosine_ops"}
_LONGEST_NAME = 63  # PostgreSQL cuts longer ones off without an error
_SCHEMAS_OF_ITS_OWN = "pg_"
_SEARCHED_NODES, _MOST_NODES = 64, 1000  # pgvector's own end of hnsw.ef_search
_MOST_CANDIDATES = 4096


class PgvectorTable:
    """A table with the columns ``id`` and ``embedding``, searched by ``ORDER BY embedding <#> query``.

    Where norms are kept apart, ``embedding`` has length 1 and the column ``norm`` the norms.

    One transaction does everything, so that one that is killed leaves nothing. A table that is there keeps its other
    columns, its rows get their new vectors; with ``upsert`` rows of other ids stay as they are.

    Args:
        destination: ``out`` is a connection string, whose password may as well be in ``PGPASSWORD``; ``name`` may have
            a schema before a dot; ``index`` is ``flat`` or ``hnsw``; float16 is a column of ``halfvec``.
    """

    def __init__(self, destination: Destination) -> None:
        self._psycopg = optional("psycopg", extra="pgvector")
        self._sql = optional("psycopg.sql", extra="pgvector")
        check_index(destination.index, ["flat", "hnsw"], target="pgvector")
        check_fresh(destination, target="pgvector")
        self.destination = destination
        self.width = SearchWidth()
        self.existing_ids: list[str] = []
        self.rows_done = 0
        self._manifest = Manifest(1.0)
        self._table = self._sql.Identifier(*_name_parts(destination.name))
        self._new = self._sql.Identifier("pg_temp", f"normdyn_{secrets.token_hex(8)}")  # hides no table of the user's
        self._type = "vector" if destination.dtype == "float32" else "halfvec"
        self._place = f"PostgreSQL's table '{destination.name}'"
        self._connection: Any = None
        self._metric: Metric = "inner_product"
        self._exists = False
        self._payload = pa.schema([])

    @property
    def approximate(self) -> bool:
        """The graph is, and so is what takes scores of the nearest by direction."""
        return self.destination.index == "hnsw" or self._needs_candidates

    @property
    def _needs_candidates(self) -> bool:
        return self._manifest.keep_norm and self._manifest.exponent != 0

    def open(self, contents: Contents) -> None:
        """Begins the transaction and makes the table, or one for the time being if it is there."""
        self._metric, self._manifest = contents.metric, contents.manifest
        self._set_width(len(contents.ids))
        with self._in_one_sentence():
            self._connection = self._connect()
            self._need_extension()
            self._exists = self._value("SELECT to_regclass(%s)", self._table.as_string(self._connection)) is not None
            if self._exists:
                self._check_existing(contents)
            self._payload = contents.payload
            kind = self._sql.SQL(f"{self._type}({contents.dim})")
            norm = ", norm real" if contents.manifest.keep_norm else ""
            if not self._exists:
                self._do(f"CREATE TABLE {{}} (id text PRIMARY KEY, embedding {{}}{norm})", self._table, kind)
            for column in contents.payload:
                self._do(
                    "ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}",
                    self._table,
                    self._sql.Identifier(column.name),
                    self._sql.SQL(column_type(column.type)),
                )
            if self._has_staging:
                norm += ", payload jsonb" if len(contents.payload) else ""
                command = f"CREATE TABLE {{}} (id text PRIMARY KEY, embedding {{}}{norm}) ON COMMIT DROP"
                self._do(command, self._new, kind)

    @property
    def _has_staging(self) -> bool:
        """Whether rows are copied into a table for the time being first."""
        return self._exists or len(self._payload) > 0

    def add(
        self, ids: Sequence[str], vectors: Tensor, norms: Tensor | None = None, payload: pa.Table | None = None
    ) -> None:
        """Copies them."""
        stored = vectors.to(stored_dtype(self.destination.dtype)).numpy()
        texts = None if payload is None else [json.dumps(json_value(row)) for row in payload.to_pylist()]
        rows = copy_rows(ids, stored, None if norms is None else norms.numpy(), texts)
        columns = ["id", "embedding", *([] if norms is None else ["norm"]), *([] if texts is None else ["payload"])]
        names = self._sql.SQL(", ".join(columns))
        command = self._sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(self._written, names)
        with self._in_one_sentence(), self._connection.cursor() as cursor, cursor.copy(command) as copy:
            copy.write(HEADER)
            copy.write(rows)
            copy.write(TRAILER)

    def close(self) -> None:
        """Gives rows that were there their new vectors, builds the index, commits."""
        with self._in_one_sentence():
            if self._has_staging:
                self._move_in()
            if self.destination.index == "hnsw":
                self._index()
            self._do("COMMENT ON COLUMN {}.embedding IS {}", self._table, self._sql.Literal(self._manifest.text()))
            self._connection.commit()
            self._disconnect()

    def discard(self) -> None:
        """Rolls back."""
        if self._connection is not None:
            self._disconnect()

    def remove(self) -> None:
        """Drops the table."""
        with self._in_one_sentence(), self._connect() as connection:
            connection.execute(self._sql.SQL("DROP TABLE IF EXISTS {}").format(self._table))

    def finish(self, findings: Mapping[str, Any]) -> None:
        """Nothing: the width is the session's, and what was measured has no place in a table."""
        del findings

    def search(self, queries: Tensor, k: int) -> SearchResult:
        """Asks the table, by the statements that users are given."""
        plan = self._plan(k)
        with self._in_one_sentence(), self._connect() as connection:
            if self.destination.index == "hnsw":
                connection.execute(_setting(plan))
            cursor = self._psycopg.RawCursor(connection)
            vectors = [str(query) for query in queries.float().tolist()]
            answers = [cursor.execute(_statement(plan), (vector,)).fetchall() for vector in vectors]
        return SearchResult(
            [[str(row_id) for row_id, _ in rows] for rows in answers],
            [[-float(distance) for _, distance in rows] for rows in answers],
        )

    def _plan(self, k: int) -> SearchPlan:
        return SearchPlan(self.destination, self._metric, k, self.width.values, self._manifest_power())

    def _manifest_power(self) -> float | None:
        return self._manifest.exponent if self._manifest.keep_norm else None

    def _set_width(self, row_count: int) -> None:
        """Of a search; refuses what the user set and the table does not have."""
        parameters, is_graph = self.destination.parameters, self.destination.index == "hnsw"
        defaults = {"ef_search": (_SEARCHED_NODES, _MOST_NODES)} if is_graph else {}
        if self._needs_candidates:
            most = min(_MOST_NODES if is_graph else _MOST_CANDIDATES, row_count)
            defaults["candidates"] = (min(_SEARCHED_NODES, most), most)
        names = ["m", "ef_construction", *defaults] if is_graph else list(defaults)
        parameters.check(names, index=self.destination.index, target="pgvector")
        self.width = SearchWidth.of(parameters, defaults, self.destination.first_width)

    @property
    def _written(self) -> Any:
        return self._new if self._has_staging else self._table

    def _connect(self) -> Any:
        """A connection.

        Raises:
            ValueError: if the connection string is none; the library would quote from it, and so from the password.
        """
        try:
            self._psycopg.conninfo.conninfo_to_dict(self.destination.out)
        except self._psycopg.ProgrammingError:
            raise ValueError(
                "out: expected a connection string such as 'host=localhost dbname=x' or 'postgresql://me@localhost/x', "
                "got one that PostgreSQL cannot read; escape or quote what has blanks or signs in it"
            ) from None
        return self._psycopg.connect(self.destination.out)

    def _need_extension(self) -> None:
        if self._value("SELECT 1 FROM pg_extension WHERE extname = 'vector'"):
            return
        if not self._value("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"):
            raise ValueError("out: this PostgreSQL has no pgvector; install it on the server and try again")
        self._do("CREATE EXTENSION vector")

    def _check_existing(self, contents: Contents) -> None:
        table = self._table.as_string(self._connection)
        kind = self._column_type("embedding")
        if kind not in (f"{self._type}({contents.dim})", self._type):
            raise ValueError(
                f"name: {self._place} has {f'embedding as {kind}' if kind else 'no column embedding'}, expected "
                f"{self._type}({contents.dim}); choose another name"
            )
        if contents.manifest.keep_norm and self._column_type("norm") is None:
            raise ValueError(f"name: {self._place} has no column norm, which keep_norm fills; choose another name")
        cosine = self._value(
            "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_opclass o ON o.oid = ANY(i.indclass) "
            "WHERE i.indrelid = %s::regclass AND o.opcname LIKE '%%\\_cosine\\_ops'",
            table,
        )
        if cosine and contents.metric != "cosine" and not contents.manifest.keep_norm:
            raise ValueError(
                f"name: {self._place} has the index {cosine}, which compares cosines and so divides every norm out "
                "again; drop it, or choose another name"
            )
        if self.destination.upsert:
            check_upsert(self._existing_manifest(), contents.manifest, place=self._place)
            return
        existing_ids = [row_id for (row_id,) in self._do("SELECT id::text FROM {}", self._table)]
        check_existing_ids(existing_ids, contents.ids, place=self._place, overwrite=self.destination.overwrite)

    def _existing_manifest(self) -> Manifest | None:
        """What an earlier export said of the column."""
        text = self._value(
            "SELECT col_description(attrelid, attnum) FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attname = 'embedding'",
            self._table.as_string(self._connection),
        )
        return None if text is None else Manifest.parsed(text)

    def _index(self) -> None:
        """Builds the graph, unless the table has one, which has followed its rows."""
        operators = f"{self._type}_{_OPCLASSES[self._metric]}"
        existing_index = self._value(
            "SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam "
            "JOIN pg_opclass o ON o.oid = ANY(i.indclass) "
            "WHERE i.indrelid = %s::regclass AND a.amname = 'hnsw' AND o.opcname = %s AND i.indpred IS NULL",
            self._table.as_string(self._connection),
            operators,
        )
        parameters = self.destination.parameters.among(("m", "ef_construction")).of_user
        if existing_index and parameters:
            name, value = next(iter(parameters.items()))
            raise ValueError(
                f"{name}: expected nothing, since {self._place} has a graph already, got {value}; drop that index, or "
                "leave the option out"
            )
        if not existing_index:
            options = ", ".join(f"{name} = {value}" for name, value in parameters.items())
            command = "CREATE INDEX ON {} USING hnsw (embedding {})" + (f" WITH ({options})" if options else "")
            self._do(command, self._table, self._sql.SQL(operators))

    def _move_in(self) -> None:
        make, columns = self._sql, ["embedding", *(["norm"] if self._manifest.keep_norm else [])]
        values = [make.SQL("new.{}").format(make.Identifier(name)) for name in columns]
        values += [make.SQL("more.{}").format(make.Identifier(name)) for name in self._payload.names]
        names = [make.Identifier(name) for name in (*columns, *self._payload.names)]
        pairs = [make.SQL("{} = {}").format(name, value) for name, value in zip(names, values, strict=True)]
        comma, rows = make.SQL(", "), self._new_rows()
        self._do("UPDATE {} AS old SET {} FROM {} WHERE old.id::text = new.id", self._table, comma.join(pairs), rows)
        self._do(
            "INSERT INTO {0} (id, {1}) SELECT new.id::{2}, {3} FROM {4} "
            "WHERE NOT EXISTS (SELECT 1 FROM {0} AS old WHERE old.id::text = new.id)",
            self._table,
            comma.join(names),
            make.SQL(self._column_type("id") or "text"),
            comma.join(values),
            rows,
        )

    def _new_rows(self) -> Any:
        """Those that were copied, as ``new``, and their further columns in the table's own types, as ``more``."""
        make = self._sql
        if not len(self._payload):
            return make.SQL("{} AS new").format(self._new)
        columns = [
            make.SQL("{} {}").format(make.Identifier(name), make.SQL(self._column_type(name) or "jsonb"))
            for name in self._payload.names
        ]
        return make.SQL("{} AS new CROSS JOIN LATERAL jsonb_to_record(new.payload) AS more({})").format(
            self._new, make.SQL(", ").join(columns)
        )

    def _column_type(self, name: str) -> str | None:
        kind: str | None = self._value(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attname = %s AND NOT attisdropped",
            self._table.as_string(self._connection),
            name,
        )
        return kind

    def _do(self, command: str, *names: Any) -> Any:
        return self._connection.execute(self._sql.SQL(command).format(*names))

    def _value(self, question: str, *values: str) -> Any:
        row = self._connection.execute(question, values or None).fetchone()
        return None if row is None else row[0]

    def _disconnect(self) -> None:
        self._connection.close()
        self._connection = None

    @contextmanager
    def _in_one_sentence(self) -> Iterator[None]:
        try:
            yield
        except self._psycopg.Error as error:
            message = in_plain_words(error)
            reason = without_passwords(message, self.destination.out)
            raise ValueError(f"out: PostgreSQL refuses ({reason}); check the connection string and the table") from (
                error if reason == message else None
            )


def _name_parts(name: str) -> list[str]:
    """The schema, if there is one, and the name of a table.

    Raises:
        ValueError: if PostgreSQL would take it for another name, or the table would not last.
    """
    parts = name.split(".", 1)
    for part in parts:
        if not part.strip() or "\0" in part or len(part.encode()) > _LONGEST_NAME:
            raise ValueError(
                f"name: expected a table, or a schema, a dot and a table, of 1 to {_LONGEST_NAME} bytes each, got "
                f"{name!r}; choose a plain word"
            )
    if len(parts) > 1 and parts[0].startswith(_SCHEMAS_OF_ITS_OWN):
        raise ValueError(f"name: expected a schema of your own, got '{parts[0]}', which is PostgreSQL's; leave it out")
    return parts


HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack("!ii", 0, 0)
TRAILER = struct.pack("!h", -1)


_COLUMN_TYPES: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_uint64, "numeric"),
    (pa.types.is_integer, "bigint"),
    (pa.types.is_floating, "double precision"),
    (pa.types.is_decimal, "numeric"),
    (pa.types.is_date, "date"),
    (lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind), "text"),
)


def column_type(kind: pa.DataType) -> str:
    """PostgreSQL's type for a column of Parquet; lists and structures are ``jsonb``.

    Args:
        kind: of the column.

    Example:
        >>> column_type(pa.int32()), column_type(pa.timestamp("us", "UTC")), column_type(pa.list_(pa.string()))
        ('bigint', 'timestamp with time zone', 'jsonb')
    """
    if pa.types.is_timestamp(kind):
        return "timestamp" if kind.tz is None else "timestamp with time zone"
    return next((name for is_kind, name in _COLUMN_TYPES if is_kind(kind)), "jsonb")


def copy_rows(
    ids: Sequence[str],
    vectors: np.ndarray[Any, Any],
    norms: np.ndarray[Any, Any] | None = None,
    payload: Sequence[str] | None = None,
) -> bytes:
    r"""Rows of a text, a ``vector`` (of float32) or ``halfvec`` (of float16), and perhaps a ``real`` and a ``jsonb``.

    A vector is its dimension and a zero, two bytes each, and then its numbers, the most significant byte first; a
    ``jsonb`` is the byte 1 and its text.

    Args:
        ids: ``n``.
        vectors: ``[n, d]``.
        norms: ``[n]``.
        payload: ``n`` texts of JSON.

    Returns:
        The rows alone, without :data:`HEADER` and :data:`TRAILER`.

    Example:
        >>> copy_rows(["a"], np.ones((1, 1), np.float16)).hex(" ", 2)
        '00 0200 0000 0161 0000 0006 0001 0000 3c00'
        >>> copy_rows(["a"], np.ones((1, 1), np.float16), payload=["{}"])[-7:]
        b'\x00\x00\x00\x03\x01{}'
    """
    dim = vectors.shape[1]
    numbers = np.ascontiguousarray(vectors, dtype=vectors.dtype.newbyteorder(">"))
    width = numbers.itemsize * dim
    column = struct.pack("!ihh", width + 4, dim, 0)
    norm_fields = [b""] * len(ids) if norms is None else [struct.pack("!if", 4, norm) for norm in norms.tolist()]
    payload_fields = [b""] * len(ids) if payload is None else [_field(b"\x01" + text.encode()) for text in payload]
    count = struct.pack("!h", 2 + (norms is not None) + (payload is not None))
    rows = []
    for row_id, vector, *endings in zip(ids, numbers, norm_fields, payload_fields, strict=True):
        rows += [count, _field(row_id.encode()), column, vector.tobytes(), *endings]
    return b"".join(rows)


def _field(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content


def _setting(plan: SearchPlan) -> str:
    nodes = max(plan.k, plan.width["ef_search"], plan.width.get("candidates", 0))
    return f"SET hnsw.ef_search = {nodes}"


def _statement(plan: SearchPlan) -> str:
    """The search, with the query's vector as ``$1``; ids, and what they are ordered by."""
    table = ".".join('"' + part.replace('"', '""') + '"' for part in _name_parts(plan.destination.name))
    kind = "vector" if plan.destination.dtype == "float32" else "halfvec"
    distance = f"embedding {_OPERATORS[plan.metric]} $1::{kind}"
    if plan.norm_power in (None, 0):
        return f"SELECT id, {distance} AS distance FROM {table} ORDER BY {distance} LIMIT {plan.k}"
    score = "(distance - 1)" if plan.metric == "cosine" else "distance"
    depth = max(plan.k, plan.width["candidates"])
    return (
        f"SELECT id, {score} * norm ^ ({plan.norm_power:g}) AS distance FROM (\n"
        f"  SELECT id, norm, {distance} AS distance FROM {table} ORDER BY {distance} LIMIT {depth}\n"
        f") AS nearest ORDER BY {score} * norm ^ ({plan.norm_power:g}) LIMIT {plan.k}"
    )


def _lines(plan: SearchPlan) -> str:
    """Statements for any client; ``$1`` is the query's vector."""
    query = "the query" if plan.prefix is None else f"the first {plan.prefix} numbers of the query"
    lines = [f"-- $1 is {query}{', and then a zero' if plan.augmented else ''}, such as '[0.1, 0.2]'"]
    lines += [f"{_setting(plan)};"] if plan.destination.index == "hnsw" else []
    return "\n".join([*lines, f"{_statement(plan)};"])


TARGETS = {
    "pgvector": IndexTarget(
        PgvectorTable,
        _lines,
        extra="pgvector",
        place="the table {name}",  # the connection string may hold a password
    )
}
