"""Writers of vector indexes, one file each, and the table of targets; an index appears whole or not at all."""

from lightning_normdyn.retrieval.indexes.targets import TARGETS, index_writer
from lightning_normdyn.retrieval.indexes.writer import Contents, Destination, IndexWriter, Metric, SearchResult, Storage

__all__ = ["TARGETS", "Contents", "Destination", "IndexWriter", "Metric", "SearchResult", "Storage", "index_writer"]
