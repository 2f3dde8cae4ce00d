"""Documents of several vectors, such as chunks of a text: a document's score is that of its best one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_tensors
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.datasets.judgements import Judgements

_DEEPEST = 2**14
_MOST_NUMBER = 1_000  # a vector; there is memory for each number up to the last


class DocumentParts(NamedTuple):
    """Which document each vector is a part of.

    Attributes:
        owners: number of the document of each vector, int64 ``[m]``.
        most: vectors of the document that has most.
    """

    owners: Tensor
    most: int

    @classmethod
    def of(cls, owners: ArrayLike) -> DocumentParts:
        """Counts the vectors of each document.

        Args:
            owners: as above.

        Raises:
            ValueError: if these are no numbers from 0 up.

        Example:
            >>> DocumentParts.of(torch.tensor([0, 0, 1])).most
            2
        """
        (owners,) = as_tensors(owners=owners)
        if owners.ndim != 1 or owners.is_floating_point() or not len(owners) or bool((owners < 0).any()):
            raise ValueError(
                f"owners: expected the number of a document, from 0 up, for each vector, got {owners.dtype} "
                f"{tuple(owners.shape)}"
            )
        owners = owners.detach().cpu().long()
        if int(owners.max()) > _MOST_NUMBER * len(owners):
            raise ValueError(
                f"owners: expected documents that are numbered in a row, got {int(owners.max())} among {len(owners)} "
                "vectors; number them as owners.unique(return_inverse=True)[1] does, and judgements by the same numbers"
            )
        return cls(owners, int(torch.bincount(owners).max()))

    @property
    def documents(self) -> int:
        """How many documents there are, to the last number."""
        return int(self.owners.max()) + 1

    def judgements_of_parts(self, judgements: Judgements) -> Judgements:
        """Judgements of documents as those of each of their vectors.

        Args:
            judgements: by number of the document.

        Example:
            >>> parts = DocumentParts.of(torch.tensor([0, 1, 0]))
            >>> parts.judgements_of_parts(Judgements.of([(5, 0, 1.0)])).documents.tolist()
            [0, 2]
        """
        counts = torch.bincount(self.owners, minlength=self.documents)
        vectors, firsts = self.owners.argsort(stable=True), counts.cumsum(0) - counts
        repeats = counts[judgements.documents]
        pairs = torch.arange(len(repeats)).repeat_interleave(repeats)
        places = torch.arange(len(pairs)) - (repeats.cumsum(0) - repeats)[pairs]
        documents = vectors[firsts[judgements.documents][pairs] + places]
        return Judgements(judgements.queries[pairs], documents, judgements.grades[pairs])

    def depth(self, k: int) -> int:
        """How many vectors must be ranked so that ``k`` documents are surely among them: ``(k - 1) · most + 1``.

        Raises:
            ValueError: if these are too many.
        """
        check_count(k=k)
        depth = (k - 1) * self.most + 1
        if depth > _DEEPEST:
            raise ValueError(
                f"owners: expected documents of at most {(_DEEPEST - 1) // max(1, k - 1)} vectors, so that {k} of them "
                f"can be ranked, got one of {self.most}; measure at a smaller rank, or cut it"
            )
        return depth

    def ranked(self, indices: Tensor, k: int) -> Tensor:
        """Turns rankings of vectors into rankings of documents, each in the place of its best vector.

        Args:
            indices: vectors by position, best first, ``[n, depth]``; negative ones stand for ranks that nothing took.
            k: documents of each ranking.

        Returns:
            Numbers of documents, ``[n, k]``; -1 where there are no more.

        Example:
            >>> DocumentParts.of(torch.tensor([5, 5, 2])).ranked(torch.tensor([[1, 0, 2], [2, -1, -1]]), 2)
            tensor([[ 5,  2],
                    [ 2, -1]])
        """
        documents = self.owners.to(indices.device)[indices.clamp(min=0)].where(indices >= 0, -1)
        by_document, order = documents.sort(dim=1, stable=True)
        is_first = torch.ones_like(by_document, dtype=torch.bool)
        is_first[:, 1:] = by_document[:, 1:] != by_document[:, :-1]
        is_best = torch.zeros_like(is_first).scatter_(1, order, is_first) & (documents >= 0)
        places = (~is_best).int().argsort(dim=1, stable=True)[:, :k]
        ranking: Tensor = documents.gather(1, places).where(is_best.gather(1, places), -1)
        return torch.nn.functional.pad(ranking, (0, k - ranking.shape[1]), value=-1)
