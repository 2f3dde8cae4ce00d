"""The file of vectors that all plain formats are: written a chunk at a time, appended to, resumed, searched whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.passwords import without_passwords
from lightning_normdyn.retrieval.indexes.id_file import ids_array, norm_file
from lightning_normdyn.retrieval.indexes.manifest import FirstRows, Manifest, existing_manifest, manifest_file
from lightning_normdyn.retrieval.indexes.refusals import check_index, check_vectors_alone
from lightning_normdyn.retrieval.indexes.search_width import SearchWidth
from lightning_normdyn.retrieval.indexes.staged_path import StagedPath, check_staged_place, local_place
from lightning_normdyn.retrieval.indexes.writer import (
    Contents,
    Destination,
    Metric,
    SearchPlan,
    SearchResult,
    stored_dtype,
)
from lightning_normdyn.retrieval.search.top_k import exact_top_k

_ROWS_PER_READ = 16_384


class VectorFile:
    """A file of vectors, written a chunk at a time; one that a kill cut off goes on from the rows on the disk.

    Args:
        destination: ``out`` is the file.
    """

    target: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    approximate = False
    width = SearchWidth()

    def __init__(self, destination: Destination) -> None:
        self._check_destination(destination)
        self.file, self.destination = local_place(destination.out, target=self.target), destination
        if self.file.suffix not in self.suffixes:
            raise ValueError(
                f"out: expected a file that ends in {' or '.join(self.suffixes)}, got "
                f"'{without_passwords(str(self.file))}'"
            )
        self._overwrite = destination.overwrite or destination.append
        check_staged_place(self.file, overwrite=self._overwrite)
        self.existing_ids: list[str] = []
        self.rows_done = 0
        self._output: StagedPath | None = None
        self._manifest = Manifest(1.0)
        self._first_rows = FirstRows()
        self._rows = 0

    def _check_destination(self, destination: Destination) -> None:
        """Refuses what the format does not have."""
        check_index(destination.index, ["flat"], target=self.target)
        check_vectors_alone(destination, target=self.target)
        destination.parameters.check((), index="flat", target=self.target)

    def open(self, contents: Contents) -> None:
        """Starts the file beside its place."""
        is_extended = self.destination.append and self.file.exists()
        if is_extended:
            contents.manifest.check_same(existing_manifest(self.file))
        self.existing_ids = self._stored_ids() if is_extended else []
        known_ids = set(self.existing_ids)
        ids = [*self.existing_ids, *(new_id for new_id in contents.ids if new_id not in known_ids)]
        manifest = contents.manifest._replace(rows=len(ids), metric=contents.metric)
        contents = contents._replace(ids=ids, manifest=manifest)
        self._check_contents(contents)
        self._manifest = contents.manifest
        self._output = StagedPath(self.file, overwrite=self._overwrite, resume_key=contents.resume_key)
        self.rows_done = self._output.rows_done
        if self.rows_done:
            self._first_rows = FirstRows.noted(self._output.state["checksum"])
        self._rows = self.rows_done or len(self.existing_ids)
        self._start(self._output.path, contents)
        if is_extended and not self.rows_done:
            self._copy(contents)
            self._first_rows.add(next(self._chunks()))

    def add(
        self, ids: Sequence[str], vectors: Tensor, norms: Tensor | None = None, payload: pa.Table | None = None
    ) -> None:
        """Appends them."""
        assert self._output is not None
        stored = vectors.to(stored_dtype(self.destination.dtype))
        self._first_rows.add(stored)
        self._append(ids, stored.numpy(), None if norms is None else norms.numpy(), payload)
        self._rows += len(ids)
        if self._sync():
            self._output.checkpoint(self._rows, checksum=self._first_rows.checksum, **self._state())

    def close(self) -> None:
        """Moves the file into place."""
        assert self._output is not None
        self._end()
        self._finish(self._output.path)
        self._manifest = self._manifest._replace(checksum=self._first_rows.checksum)
        self._manifest.write(manifest_file(self._output.path))
        self._output.publish()
        if not self._manifest.keep_norm:
            norm_file(self.file).unlink(missing_ok=True)  # of the file that was replaced

    def discard(self) -> None:
        """Removes the unfinished file."""
        if self._output is not None:
            with suppress(OSError):  # a disk that is full is what the error was about
                self._end()
            self._output.discard()

    def finish(self, findings: Mapping[str, Any]) -> None:
        """Writes what was measured into the manifest."""
        self._manifest.write(manifest_file(self.file), findings)

    def search(self, queries: Tensor, k: int) -> SearchResult:
        """Reads the file again and searches all of it by its metric, in float32 as indexes do."""
        metric, weights = cast("Metric", self._manifest.metric), self._weights()
        documents = (
            _vectors_for_metric(chunk, metric)
            if weights is None
            else F.normalize(chunk) * weights[start : start + len(chunk)].unsqueeze(1)
            for start, chunk in zip(count(0, _ROWS_PER_READ), self._chunks())
        )
        vectors = F.pad(queries, (0, 1), value=-0.5) if metric == "euclidean" else queries
        result = exact_top_k(vectors, documents, k)
        ids = self._stored_ids()
        return SearchResult([[ids[row] for row in rows] for rows in result.indices.tolist()], result.scores.tolist())

    def _weights(self) -> Tensor | None:
        """What the norms that are kept apart make of scores."""
        return torch.tensor(self._norms()) ** self._manifest.exponent if self._manifest.keep_norm else None

    def _check_contents(self, contents: Contents) -> None:
        """Refuses ids and columns that cannot be written."""

    def _stored_ids(self) -> list[str]:
        return EmbeddingFile(self.file).ids

    def _chunks(self) -> Iterator[Tensor]:
        """The vectors of the file in its place, so many rows at a time."""
        return EmbeddingFile(self.file).chunks(_ROWS_PER_READ)

    def _norms(self) -> np.ndarray[Any, Any]:
        norms: np.ndarray[Any, Any] = np.load(norm_file(self.file))
        return norms

    def _start(self, file: Path, contents: Contents) -> None:
        raise NotImplementedError

    def _copy(self, contents: Contents) -> None:
        """Takes over the rows that are there."""
        raise NotImplementedError

    def _append(
        self,
        ids: Sequence[str],
        rows: np.ndarray[Any, Any],
        norms: np.ndarray[Any, Any] | None,
        payload: pa.Table | None,
    ) -> None:
        raise NotImplementedError

    def _sync(self) -> bool:
        """Whether all rows so far are on the disk now."""
        raise NotImplementedError

    def _state(self) -> dict[str, int]:
        """What is noted with the rows on the disk, for the next export if this one is killed."""
        return {}

    def _finish(self, file: Path) -> None:
        """Puts the file together."""

    def _end(self) -> None:
        raise NotImplementedError


def _vectors_for_metric(documents: Tensor, metric: Metric) -> Tensor:
    """Documents whose inner products have the order of the metric."""
    if metric == "euclidean":  # |q - d|² = |q|² - 2 (<q, d> - |d|² / 2)
        return torch.cat([documents, documents.square().sum(1, keepdim=True)], 1)
    return F.normalize(documents) if metric == "cosine" else documents


def numpy_lines(plan: SearchPlan, reading: list[str], *, ids: str = "") -> str:
    """Lines of Python that rank all vectors of a file by their inner product with ``queries``.

    Args:
        plan: of the search.
        reading: lines that make ``vectors``, and ``norms`` where ``ids`` are of the file too.
        ids: the ids of ``best``, as a piece of Python; those beside the file, or numbers of rows, if left out.
    """
    norms_path = norm_file(Path(plan.destination.out))
    scores = {
        "inner_product": "scores = queries @ vectors.T",
        "cosine": "scores = queries @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-30)).T",
        "euclidean": "scores = queries @ vectors.T - (vectors**2).sum(1) / 2",
    }[plan.metric if plan.norm_power is None else "inner_product"]
    if plan.norm_power is not None:
        scores += f" * norms{plan.weight}"
        reading = reading if ids else [*reading, f"norms = np.load({str(norms_path)!r})"]
    lines = ["import numpy as np", *reading, *plan.queries(), scores, f"best = (-scores).argsort(1)[:, :{plan.k}]"]
    if not ids and plan.has_id_file:
        lines.insert(0, "from pathlib import Path")
        lines.append(f"ids = {ids_array(Path(plan.destination.out))}[best]")
    else:
        lines.append(f"ids = {ids or 'best'}")
    return "\n".join(lines)
