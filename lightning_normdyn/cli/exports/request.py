"""What ``normdyn export`` is asked for, checked as far as it can be before a file is opened, and who writes it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_normdyn.cli.ray_cluster import check_engine
from lightning_normdyn.cli.user_errors import MissingExtraError
from lightning_normdyn.datasets.storage_place import StoragePlace
from lightning_normdyn.nearest_word import nearest
from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.export.pilot import PilotResult
from lightning_normdyn.retrieval.indexes import TARGETS, Destination, IndexWriter, index_writer
from lightning_normdyn.retrieval.indexes.writer import IndexTarget


@dataclass(frozen=True)
class ExportRequest:
    """What ``normdyn export`` is asked for.

    Args:
        embeddings: file of the documents.
        folding: what is folded into them.
        to: a word of ``TARGETS``.
        destination: where they go, and how they are kept.
        column: of the embeddings.
        ids: file of their ids.
        dim: numbers of each row that are taken; all if left out.
        queries: file of queries to measure with.
        sample: queries to measure with.
        recall: that searches are widened to.
        chunk_size: embeddings in memory.
        engine: ``local``, or ``ray`` to spread passes over a cluster.

    Raises:
        ValueError: if options do not fit together.
    """

    embeddings: str
    folding: Folding
    to: str
    destination: Destination
    column: str | None = None
    ids: str | None = None
    dim: int | None = None
    queries: str | None = None
    sample: int = 200
    recall: float = 0.95
    chunk_size: int = 16_384
    engine: str = "local"

    def __post_init__(self) -> None:
        check_engine(self.engine)
        _check_apart(self.destination.out, self.embeddings)
        if not 0 < self.recall <= 1:
            raise ValueError(f"recall: expected a share above 0 and up to 1, got {self.recall:g}")
        if self.destination.index == "auto":
            self._check_auto()
        if self.destination.append and self.destination.overwrite:
            raise ValueError("append: expected no overwrite beside it, which replaces what is there; leave one out")

    @property
    def is_auto(self) -> bool:
        """Whether the kind of index is to be found."""
        return self.destination.index == "auto"

    def _check_auto(self) -> None:
        target = TARGETS.get(self.to)
        if target is not None and not target.candidates:
            names = ", ".join(name for name, other in TARGETS.items() if other.candidates)
            raise ValueError(f"index: expected auto for {names} alone, got it for {self.to}; name an index")
        choices = {"augment": self.folding.augment, "keep_norm": self.folding.keep_norm}
        choices["metric"] = self.folding.metric != "inner_product"
        for name, is_set in choices.items():
            if is_set:
                raise ValueError(f"{name}: expected nothing with --index auto, which tries it; leave it out")
        if self.destination.append or self.destination.upsert:
            raise ValueError("index: expected that of the vectors that are there to append to, got auto; name it")

    def taking(self, result: PilotResult) -> ExportRequest:
        """The same with the index that was found."""
        candidate, destination = result.candidate, self.destination
        folding = replace(self.folding, augment=candidate.augment, keep_norm=candidate.keep_norm)
        parameters = destination.parameters.among(candidate.parameters)
        destination = replace(
            destination, index=candidate.index, parameters=parameters, first_width=result.width.values
        )
        return replace(self, folding=folding, destination=destination)


def _check_apart(out: str, embeddings: str) -> None:
    # Embeddings are read again after the index is in place: what it loses would be measured against itself.
    # os.path, since no URL upsets it.
    place = StoragePlace(embeddings).path
    if place is None or not place.exists():
        return
    if os.path.exists(out) and os.path.samefile(out, place):  # noqa: PTH110, PTH121
        raise ValueError(f"out: expected another file than that of the embeddings, got '{out}'; choose another")
    # A file among the shards would be taken for one of them the next time.
    if place.is_dir() and "://" not in out and Path(out).absolute().is_relative_to(place.absolute()):
        raise ValueError(f"out: expected a place outside of the embeddings' folder, got '{out}'; choose another")


def named_target(to: str) -> IndexTarget:
    """The target of a name.

    Args:
        to: a word of ``TARGETS``.

    Raises:
        ValueError: if there is no such target.
    """
    if to not in TARGETS:
        raise ValueError(f"to: expected one of {', '.join(TARGETS)}, got {to!r}{nearest(to, tuple(TARGETS))}")
    return TARGETS[to]


def target_writer(to: str, destination: Destination) -> IndexWriter:
    """What writes there.

    Args:
        to: a word of ``TARGETS``.
        destination: where vectors go, and how they are kept.

    Raises:
        ValueError: if there is no such target.
        MissingExtraError: if its package is not installed.
    """
    named_target(to)
    try:
        return index_writer(to, destination)
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error)) from error
