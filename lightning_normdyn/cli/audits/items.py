"""The texts or images that embeddings were made of, with their ids, put into the order of the embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_normdyn.datasets import MalformedFileError, Texts
from lightning_normdyn.datasets.embedding_file import EmbeddingFile, places_by_id
from lightning_normdyn.datasets.reading.folder import require_folder
from lightning_normdyn.datasets.reading.picture import SUFFIXES
from lightning_normdyn.datasets.reading.rows import check_width, read_rows
from lightning_normdyn.retrieval.exponent.document_parts import DocumentParts


class AuditedItems(NamedTuple):
    """Items by id.

    Attributes:
        source: the file or folder that lists them.
        ids: distinct.
        texts: of the items, where they are texts.
        images: files of the items, where they are images.
    """

    source: str
    ids: Sequence[str]
    texts: Sequence[str] | None = None
    images: Sequence[Path] | None = None

    @classmethod
    def of_texts(cls, source: str, texts: Texts) -> AuditedItems:
        """Takes texts with their ids."""
        return cls(source, texts.ids, texts.texts)

    @classmethod
    def of_folder(cls, folder: str) -> AuditedItems:
        """Finds the images of a folder, at any depth; their paths in it are their ids.

        Raises:
            MalformedFileError: if there is none.
        """
        root = require_folder(folder)
        files = sorted(file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise MalformedFileError(folder, None, f"images ({', '.join(SUFFIXES)})", "none")
        return cls(folder, [file.relative_to(root).as_posix() for file in files], images=files)

    def ordered(self, places: Sequence[int]) -> AuditedItems:
        """The items at some places."""
        if list(places) == list(range(len(self.ids))):
            return self
        return AuditedItems(
            self.source,
            [self.ids[place] for place in places],
            None if self.texts is None else [self.texts[place] for place in places],
            None if self.images is None else [self.images[place] for place in places],
        )


class Chunks(NamedTuple):
    """Vectors that are chunks of documents.

    Attributes:
        documents: ids, in the order of their first chunk.
        parts: the document of each vector.
        notes: how many there are of both.
    """

    documents: list[str]
    parts: DocumentParts
    notes: list[str]


def read_chunks(file: str, ids: Sequence[str]) -> Chunks:
    r"""Reads which document each vector is a chunk of: its id, a tab, the document's id.

    Args:
        file: plain or ``.gz``; a first row whose first cell is ``id``, ``chunk`` or ``chunk-id`` names the columns.
        ids: of the vectors, in their order.

    Raises:
        MalformedFileError: if a row has not two cells, or a vector has no row or two that differ.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "chunks.tsv"
        >>> _ = file.write_text("a1\ta\nb1\tb\na2\ta\n")
        >>> chunks = read_chunks(str(file), ["a2", "a1", "b1"])
        >>> chunks.documents, chunks.parts.owners.tolist()
        (['a', 'b'], [0, 0, 1])
    """
    documents_by_chunk: dict[str, str] = {}
    for place, row in enumerate(read_rows(file)):
        check_width(file, row, 2)
        chunk, document = (cell.strip() for cell in row.cells)
        if not place and chunk in ("id", "chunk", "chunk-id", "chunk_id"):
            continue
        if documents_by_chunk.setdefault(chunk, document) != document:
            came = f"'{chunk}' of '{documents_by_chunk[chunk]}' and of '{document}'"
            raise MalformedFileError(file, row.line, "one document a chunk", came, "keep the right one")
    missing = next((id for id in ids if id not in documents_by_chunk), None)
    if missing is not None:
        raise MalformedFileError(file, None, "a document for every vector", f"none for '{missing}'", "add its row")
    numbers: dict[str, int] = {}
    owners = [numbers.setdefault(documents_by_chunk[id], len(numbers)) for id in ids]
    parts = DocumentParts.of(torch.tensor(owners))
    note = f"{len(ids):,} vectors are chunks of {len(numbers):,} documents: rankings go by the best chunk of each."
    return Chunks(list(numbers), parts, [note])


def items_of(embeddings: EmbeddingFile, items: AuditedItems | None) -> AuditedItems:
    """The item of each row: by id where the file has ids, else in the order of the items.

    Args:
        embeddings: as opened.
        items: what they may be of; may be more, where the file has ids.

    Raises:
        ValueError: if an id comes twice, or the items has not an item for each row.
    """
    if items is not None and not embeddings.has_ids:
        # Numbers of rows are no ids, even where the items has the same numbers in another order.
        return _in_order(embeddings, items)
    ids = embeddings.ids
    places_by_id(ids, embeddings.file)
    if items is None:
        return AuditedItems(str(embeddings.file), ids)
    places = {id: place for place, id in enumerate(items.ids)}
    missing = next((id for id in ids if id not in places), None)
    if missing is not None:
        raise ValueError(
            f"{items.source}: expected an item for every id of {embeddings.file}, got none for '{missing}'"
        )
    return items.ordered([places[id] for id in ids])


def _in_order(embeddings: EmbeddingFile, items: AuditedItems) -> AuditedItems:
    if len(items.ids) != embeddings.rows:
        raise ValueError(
            f"{embeddings.file}: expected a vector for each of the {len(items.ids)} items of {items.source}, got "
            f"{embeddings.rows} without ids; write ids into the embeddings, or leave the same items out of both"
        )
    return items
