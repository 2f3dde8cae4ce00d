"""Passes over embeddings whose parts the machines of a Ray cluster read and work on, each for itself."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from torch import Tensor

from lightning_normdyn.cli.ray_cluster import RayCluster
from lightning_normdyn.datasets.embedding_file import EmbeddingFile

R = TypeVar("R")
_PARTS_A_CPU = 4


class RayPasses:
    """Makes passes over embeddings, as :class:`~lightning_normdyn.retrieval.search.document_chunks.Spread` says.

    Parts begin where chunks of a pass in one process do, and are put together in order: numbers are the same to the
    bit.

    Args:
        cluster: that has the machines; each of them must be able to open the embeddings.
        embeddings: as opened here.
        chunk_size: rows of a chunk.
        tell: hears how many rows are done with.

    Raises:
        ValueError: if the embeddings lie in the memory of this process.
    """

    def __init__(
        self, cluster: RayCluster, embeddings: EmbeddingFile, chunk_size: int, tell: Callable[[int], object]
    ) -> None:
        if embeddings.place.is_of_this_process:
            raise ValueError(
                f"engine: expected embeddings that other processes can read, got {embeddings.place}; put them on a "
                "shared disk or into a bucket"
            )
        self._cluster, self._embeddings, self._chunk_size, self._tell = cluster, embeddings, chunk_size, tell

    def __call__(self, work: Callable[[Iterable[Tensor], range], R], *, by_chunk: bool = False) -> Iterator[R]:
        """Makes one pass.

        Args:
            work: called with the chunks of a part and its rows, on some machine.
            by_chunk: whether a part is one chunk.
        """
        ranges = self._ranges(by_chunk=by_chunk)
        constants = (work, self._embeddings, self._chunk_size)
        for rows, result in zip(ranges, self._cluster.map(work_on, constants, ranges), strict=True):
            self._tell(len(rows))
            yield result

    def _ranges(self, *, by_chunk: bool) -> list[range]:
        """Rows of each part, whole chunks."""
        rows = self._embeddings.rows
        chunks = max(1, -(-rows // self._chunk_size))
        part_count = chunks if by_chunk else min(chunks, _PARTS_A_CPU * self._cluster.cpus)
        size = -(-chunks // part_count) * self._chunk_size
        return [range(start, min(start + size, rows)) for start in range(0, max(1, rows), size)]


def work_on(work: Callable[[Iterable[Tensor], range], R], embeddings: EmbeddingFile, chunk_size: int, rows: range) -> R:
    """Works on some rows, on the machine that they were sent to.

    Args:
        work: called with chunks and rows.
        embeddings: that the machine opens for itself.
        chunk_size: rows of a chunk.
        rows: of this part.

    Raises:
        FileNotFoundError: if the machine does not have the file.
    """
    try:
        return work(embeddings.chunks(chunk_size, rows), rows)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{embeddings.file}: expected the file on every machine of the cluster, got none on {socket.gethostname()} "
            f"({' '.join(str(error).split())}); use a shared disk or a bucket"
        ) from error
