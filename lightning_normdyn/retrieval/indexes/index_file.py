"""The file of an index that a library builds in memory: ids inside or beside it, appended to, resumed after a kill."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from torch import Tensor

from lightning_normdyn.retrieval.indexes.binary_stream import BinaryStream, npy_header
from lightning_normdyn.retrieval.indexes.id_file import (
    are_rows,
    check_lines,
    check_place,
    id_file,
    norm_file,
    read_ids,
    whole_numbers,
    write_ids,
)
from lightning_normdyn.retrieval.indexes.manifest import Manifest, existing_manifest, manifest_file
from lightning_normdyn.retrieval.indexes.refusals import check_vectors_alone
from lightning_normdyn.retrieval.indexes.search_width import SearchWidth
from lightning_normdyn.retrieval.indexes.staged_path import StagedPath, check_staged_place, local_place
from lightning_normdyn.retrieval.indexes.writer import Contents, Destination, SearchResult

Numbers = np.ndarray[Any, Any]

_SECONDS_BETWEEN_SAVES, _LEAST_SHARE = 120.0, 20


class IndexFile:
    """An index of a library, kept in memory while it is built and put on the disk now and then.

    Ids that are whole numbers are those of the index; others are numbered, and ``<file>.ids.txt`` says which number is
    which. Where norms are kept apart, the index holds directions under the numbers of their rows, and
    ``<file>.norms.npy`` their norms. An export that was killed goes on from what is on the disk.

    Args:
        destination: ``out`` is the file.
    """

    target: ClassVar[str]
    library: ClassVar[str]

    def __init__(self, destination: Destination) -> None:
        self.file, self.destination = local_place(destination.out, target=self.target), destination
        check_vectors_alone(destination, target=self.target)
        self._overwrite = destination.overwrite or destination.append
        check_staged_place(self.file, overwrite=self._overwrite)
        self.width = SearchWidth()
        self.existing_ids: list[str] = []
        self.rows_done = 0
        self._manifest = Manifest(1.0)
        self._output: StagedPath | None = None
        self._index: Any = None
        self._numbers: Numbers | None = None
        self._norms: BinaryStream | None = None
        self._saved_at, self._saving_seconds = time.monotonic(), 0.0
        self._row_count = 0
        self._written_width: dict[str, int] = {}

    @property
    def approximate(self) -> bool:
        """All but ``flat`` are, and so is that where scores are made of the nearest by direction."""
        return self.destination.index != "flat" or self._needs_candidates

    @property
    def _needs_candidates(self) -> bool:
        return self._manifest.keep_norm and self._manifest.exponent != 0

    def open(self, contents: Contents) -> None:
        """Builds the empty index and lets it learn from the sample, or takes over the one that is there."""
        self._check_contents(contents)
        is_extended = self.destination.append and self.file.exists()
        if is_extended:
            contents.manifest.check_same(existing_manifest(self.file))
            self._index = self._read(self.file)
            ids_path = id_file(self.file)
            self.existing_ids = read_ids(ids_path) if ids_path.exists() else self._ids_inside(self._index)
        known_ids = set(self.existing_ids)
        ids = [*self.existing_ids, *(new_id for new_id in contents.ids if new_id not in known_ids)]
        self._manifest = contents.manifest._replace(rows=len(ids), metric=contents.metric)
        self._numbers = None if self._manifest.keep_norm and not are_rows(ids) else whole_numbers(ids)
        has_id_file = self._numbers is None
        check_place(self.file, has_id_file=has_id_file, overwrite=self._overwrite)
        if has_id_file:
            check_lines(ids)
        elif is_extended and id_file(self.file).exists():
            raise ValueError("append: expected ids as those of the index, got whole numbers alone; rename them")
        if self._index is None:
            self._index = self._empty(contents, len(ids))
        self._set_parameters(contents, len(ids))
        self._output = StagedPath(self.file, overwrite=self._overwrite, resume_key=contents.resume_key)
        self._start(self._output, ids, has_id_file=has_id_file)

    def add(
        self, ids: Sequence[str], vectors: Tensor, norms: Tensor | None = None, payload: pa.Table | None = None
    ) -> None:
        """Adds them to the index in memory."""
        del payload  # refused from the start
        assert self._numbers is not None
        self._add(vectors.numpy(), self._numbers[self._row_count : self._row_count + len(ids)])
        self._row_count += len(ids)
        if norms is not None and self._norms is not None:
            self._norms.write(norms.numpy())
        if time.monotonic() - self._saved_at > max(_SECONDS_BETWEEN_SAVES, _LEAST_SHARE * self._saving_seconds):
            self._save()

    def close(self) -> None:
        """Writes the file and moves it into place."""
        assert self._output is not None
        self._write_or_say(self._output.path)
        if self._norms is not None:
            self._norms.close()
        _partial(self._output.path).unlink(missing_ok=True)
        self._manifest.write(manifest_file(self._output.path))
        self._index, self._written_width = None, self._stored_width()
        self._output.publish()
        if not self._manifest.keep_norm:
            norm_file(self.file).unlink(missing_ok=True)  # of the index that was replaced

    def discard(self) -> None:
        """Removes what was written."""
        if self._norms is not None:
            self._norms.close()
        if self._output is not None:
            self._output.discard()

    def finish(self, findings: Mapping[str, Any]) -> None:
        """Keeps the width in the file, if it has a place there and is another by now, and writes the manifest."""
        if self._index is not None and self._stored_width() != self._written_width:
            self._put_width()
            staged = StagedPath(self.file, overwrite=True)
            try:
                self._write_or_say(staged.path)
                staged.publish()
            except BaseException:
                staged.discard()
                raise
            self._written_width = self._stored_width()
        self._manifest.write(manifest_file(self.file), findings)

    def search(self, queries: Tensor, k: int) -> SearchResult:
        """Reads the file again and asks it."""
        if self._index is None:
            self._index = self._read(self.file)
        self._put_width()
        depth = max(k, self.width.values["candidates"]) if self._needs_candidates else k
        scores, numbers = self._nearest(queries.float().numpy(), depth)
        if self._needs_candidates:
            scores = scores * (np.load(norm_file(self.file)) ** np.float32(self._manifest.exponent))[numbers]
            scores[numbers < 0] = -np.inf
            best = (-scores).argsort(1, kind="stable")[:, :k]
            scores, numbers = np.take_along_axis(scores, best, 1), np.take_along_axis(numbers, best, 1)
        file_ids = read_ids(id_file(self.file)) if id_file(self.file).exists() else None
        ids = [
            [str(number) if file_ids is None else file_ids[number] for number in row if number >= 0]
            for row in numbers.tolist()
        ]
        return SearchResult(ids, scores.tolist())

    def _start(self, output: StagedPath, ids: Sequence[str], *, has_id_file: bool) -> None:
        """Writes ids and the beginning of norms, and takes over what a killed export had put on the disk."""
        self.rows_done = output.rows_done
        self._row_count = self.rows_done or len(self.existing_ids)
        if has_id_file:
            write_ids(id_file(output.path), ids)
            self._numbers = np.arange(len(ids))
        if self.rows_done:
            self._index = self._read(_partial(output.path))
        if self._manifest.keep_norm:
            header = npy_header("<f4", (len(ids),))
            self._norms = BinaryStream(norm_file(output.path), header, 4, rows_done=self.rows_done)
            if self.existing_ids and not self.rows_done:
                self._norms.copy(norm_file(self.file), len(self.existing_ids))

    def _save(self) -> None:
        """Puts on the disk what there is so far, for the next export if this one is killed."""
        assert self._output is not None
        if self._output.is_resumable:
            started = time.monotonic()
            fresh = _partial(self._output.path).with_suffix(".new")
            self._write_or_say(fresh)
            if self._norms is not None:
                self._norms.sync()
            fresh.replace(_partial(self._output.path))
            self._output.checkpoint(self._row_count)
            self._saving_seconds = time.monotonic() - started
        self._saved_at = time.monotonic()

    def _write_or_say(self, file: Path) -> None:
        try:
            self._write(file)
        except RuntimeError as error:
            raise OSError(f"out: {self.library} cannot write '{self.file}' ({error}); is the disk full?") from error

    def _check_contents(self, contents: Contents) -> None:
        """Refuses what the index would rank otherwise."""

    def _empty(self, contents: Contents, row_count: int) -> Any:
        """An index without vectors."""
        raise NotImplementedError

    def _set_parameters(self, contents: Contents, row_count: int) -> None:
        """Sets how the index is built and how much a search looks at; refuses what it does not have."""
        raise NotImplementedError

    def _add(self, vectors: Numbers, numbers: Numbers) -> None:
        raise NotImplementedError

    def _nearest(self, queries: Numbers, depth: int) -> tuple[Numbers, Numbers]:
        """Scores, larger for the nearer, and numbers of the nearest; -1 where there are no more."""
        raise NotImplementedError

    def _read(self, file: Path) -> Any:
        raise NotImplementedError

    def _write(self, file: Path) -> None:
        raise NotImplementedError

    def _ids_inside(self, index: Any) -> list[str]:
        """Ids of an index in the order of its rows."""
        raise NotImplementedError

    def _put_width(self) -> None:
        """Makes the next search look at as much as the width says."""
        raise NotImplementedError

    def _stored_width(self) -> dict[str, int]:
        """Of the width what the file keeps."""
        return {}


def _partial(file: Path) -> Path:
    return file.with_name(".partial.index")
