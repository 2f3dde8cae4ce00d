"""Indexes that people run, written whole or not at all: one file for each, and a table of them."""

from lightning_normdyn.retrieval.indexes.targets import TARGETS, index_writer
from lightning_normdyn.retrieval.indexes.writer import Contents, Destination, Found, IndexWriter, Metric, Storage

__all__ = ["TARGETS", "Contents", "Destination", "Found", "IndexWriter", "Metric", "Storage", "index_writer"]
