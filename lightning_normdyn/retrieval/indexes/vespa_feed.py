"""Vespa: a feed of document operations, and the schema whose rank profile scores by inner product."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pyarrow as pa

from lightning_normdyn.retrieval.indexes.feed_file import FeedFile, FeedRecord, json_text
from lightning_normdyn.retrieval.indexes.manifest import METADATA_KEY
from lightning_normdyn.retrieval.indexes.writer import Contents, IndexTarget, Metric, SearchPlan

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_CONTROL = re.compile(r"\\u00(0[0-8bcef]|1[0-9a-f])|\\[bf]")
_PROFILE = "norm_aware"


class VespaFeed(FeedFile):
    """One document operation a line; ``<file>.sd`` is the schema, named like the index.

    Vespa finds the largest inner products by ``distance-metric: dotproduct``, and the rank profile computes them again,
    with the norm's power where norms are kept apart.
    """

    target, library, largest_dim = "vespa", "Vespa", 2**16
    suffixes = (".jsonl", ".ndjson", ".json")
    fields_ending = ".sd"
    distances: ClassVar[Mapping[Metric, str]] = {
        "inner_product": "dotproduct", "euclidean": "euclidean", "cosine": "angular",
    }  # fmt: skip

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"name: expected letters, digits and underscores for a schema of Vespa, got {name[:40]!r}; choose a "
                "plain word"
            )

    def _check_contents(self, contents: Contents) -> None:
        super()._check_contents(contents)
        if "" in contents.ids:
            raise ValueError(f"ids: expected text for Vespa, got nothing in row {contents.ids.index('')}; fill it in")
        for column in contents.payload:
            if not _NAME.fullmatch(column.name):
                raise ValueError(
                    f"payload: expected letters, digits and underscores in names of fields of Vespa, got "
                    f"'{column.name}'; rename the column"
                )
            field_type(column)

    def _text(self, record: FeedRecord) -> str:
        values = {"id": record.id, **record.fields()}
        if self.destination.upsert:
            fields = json_text({name: {"assign": value} for name, value in values.items()})
            embedding, words = f'{{"assign":{{"values":{record.vector}}}}}', '"update":'
        else:
            fields = json_text({name: value for name, value in values.items() if value is not None})
            embedding, words = f'{{"values":{record.vector}}}', '"put":'
        if _CONTROL.search(fields):
            raise ValueError(
                f"ids: expected text without control characters, which Vespa refuses, got some in the document "
                f"{record.id!r} or its payload; take them out"
            )
        name = self.destination.name
        document = json_text(f"id:{name}:{name}::{record.id}")
        creating = '"create":true,' if self.destination.upsert else ""
        return f'{{{words}{document},{creating}"fields":{{"embedding":{embedding},{fields[1:]}}}\n'

    def _documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        with self.file.open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                operation = json.loads(line)
                fields = {
                    name: value["assign"] if "update" in operation else value
                    for name, value in operation["fields"].items()
                }
                yield fields["id"], {**fields, "embedding": fields["embedding"]["values"]}

    def _fields(self, contents: Contents) -> str:
        name, is_graph = self.destination.name, self.destination.index == "hnsw"
        fields = [_field("id", "string")]
        fields += [_field("norm", "float")] if contents.manifest.keep_norm else []
        fields += [_field(column.name, field_type(column)) for column in contents.payload]
        vector = f"tensor<float>(x[{contents.dim}])"
        lines = [
            f"# {METADATA_KEY}: {contents.manifest.text()}",
            f"schema {name} {{",
            f"    document {name} {{",
            *(f"        {line}" for field in fields for line in field),
            f"        field embedding type {vector} {{",
            f"            indexing: attribute{' | index' * is_graph}",
            "            attribute {",
            f"                distance-metric: {self.distances[contents.metric]}",
            "            }",
            *(f"            {line}" for line in (self._graph_lines() if is_graph else ())),
            "        }",
            "    }",
            f"    rank-profile {_PROFILE} {{",
            "        inputs {",
            f"            query(q) {vector}",
            "        }",
            "        first-phase {",
            f"            expression: {_expression(contents.norm_power)}",
            "        }",
            "    }",
            "}",
        ]
        return "\n".join(lines) + "\n"

    def _graph_lines(self) -> list[str]:
        words = {"m": "max-links-per-node", "ef_construction": "neighbors-to-explore-at-insert"}
        settings = self.destination.parameters.among(tuple(words)).of_user
        lines = [f"        {words[name]}: {value}" for name, value in settings.items()]
        return ["index {", "    hnsw {", *lines, "    }", "}"] if lines else []


def _expression(norm_power: float | None) -> str:
    product = "sum(query(q) * attribute(embedding))"
    return product if norm_power in (None, 0) else f"{product} * pow(attribute(norm), {norm_power:g})"


def _field(name: str, kind: str) -> list[str]:
    return [f"field {name} type {kind} {{", "    indexing: summary | attribute", "}"]


_TYPES = (
    (pa.types.is_boolean, "bool"),
    (pa.types.is_int8, "byte"),
    (lambda kind: pa.types.is_integer(kind) and kind.bit_width < 32, "int"),
    (pa.types.is_int32, "int"),
    (lambda kind: pa.types.is_integer(kind) and not pa.types.is_uint64(kind), "long"),
    (pa.types.is_float64, "double"),
    (pa.types.is_floating, "float"),
    (
        lambda kind: any(
            is_kind(kind)
            for is_kind in (
                pa.types.is_string, pa.types.is_large_string, pa.types.is_timestamp, pa.types.is_date,
                pa.types.is_decimal, pa.types.is_null,
            )
        ),
        "string",
    ),
)  # fmt: skip


def field_type(column: pa.Field) -> str:
    """Vespa's type for a column; times are texts in ISO 8601.

    Args:
        column: of the payload.

    Raises:
        ValueError: if it has none: for structures, lists of lists and numbers above 2^63.

    Example:
        >>> field_type(pa.field("tags", pa.list_(pa.string()))), field_type(pa.field("year", pa.int64()))
        ('array<string>', 'long')
    """
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    name = next((name for is_kind, name in _TYPES if is_kind(kind.value_type if is_list else kind)), None)
    if name is None:
        raise ValueError(
            f"payload: expected numbers, texts, times and lists of them for a schema of Vespa, got '{column.name}' of "
            f"type {kind}; leave it out, or write it as text"
        )
    return f"array<{name}>" if is_list else name


def _feed_lines(plan: SearchPlan) -> str:
    """Lines for a shell, in the folder of the application package."""
    name, file = plan.destination.name, plan.destination.out
    lines = [f"vespa feed {shlex.quote(file)}"]
    if plan.destination.upsert:
        return "\n".join(lines)
    deploying = [f"cp {shlex.quote(file + VespaFeed.fields_ending)} schemas/{name}.sd", "vespa deploy --wait 300"]
    return "\n".join([*deploying, *lines])


def _search_lines(plan: SearchPlan) -> str:
    """Lines of Python that search by ``queries``, a numpy array ``[n, d]`` of float32."""
    name, depth = plan.destination.name, max(plan.k, plan.width.get("candidates", 0))
    nodes = max(0, plan.width.get("ef_search", 0) - depth)
    annotations = f"targetHits: {depth}, " + (
        f"hnsw.exploreAdditionalHits: {nodes}" if plan.destination.index == "hnsw" else "approximate: false"
    )
    where = f"{{{annotations}}}nearestNeighbor(embedding, q)"
    if plan.is_reweighted and plan.destination.index == "flat":
        where = "true"
    return "\n".join(
        [
            "import os",
            "import numpy as np",
            "from vespa.application import Vespa",
            "app = Vespa(url=os.environ.get('VESPA_URL', 'http://localhost:8080'))",
            *plan.queries(),
            f"yql = {f'select id from {name} where {where}'!r}",
            f"body = {{'yql': yql, 'ranking': {_PROFILE!r}, 'hits': {plan.k}}}",
            "answers = [app.query({**body, 'input.query(q)': query}) for query in queries.tolist()]",
            "ids = [[hit['fields']['id'] for hit in answer.hits] for answer in answers]",
        ]
    )


TARGETS = {
    "vespa": IndexTarget(
        VespaFeed,
        _search_lines,
        place="{out}, a feed for Vespa",
        ending=".jsonl",
        feed=_feed_lines,
    )
}
