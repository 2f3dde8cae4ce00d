"""Writers of vector indexes, one file each, and the table of targets; an index appears whole or not at all."""

from lightning_normdyn.retrieval.indexes.manifest import Manifest, read_manifest
from lightning_normdyn.retrieval.indexes.search_width import IndexParameters, SearchWidth
from lightning_normdyn.retrieval.indexes.targets import TARGETS, index_writer
from lightning_normdyn.retrieval.indexes.writer import (
    Candidate,
    Contents,
    Destination,
    IndexWriter,
    Metric,
    SearchPlan,
    SearchResult,
    Storage,
)

__all__ = [
    "TARGETS",
    "Candidate",
    "Contents",
    "Destination",
    "IndexParameters",
    "IndexWriter",
    "Manifest",
    "Metric",
    "SearchPlan",
    "SearchResult",
    "SearchWidth",
    "Storage",
    "index_writer",
    "read_manifest",
]
