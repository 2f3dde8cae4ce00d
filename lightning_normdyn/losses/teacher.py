"""What a teacher says of a batch: scores, or embeddings of its own that scores are made of; checked and detached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict, get_args

import torch
from einops import rearrange
from torch import Tensor

from lightning_normdyn.core.contrast.similarity import NORMALIZATIONS, rescale
from lightning_normdyn.core.number_checks import check_positive
from lightning_normdyn.core.object_checks import check_choice
from lightning_normdyn.losses.gather import Trait
from lightning_normdyn.losses.options import DistillationCandidates, TeacherNormalization


class TeacherOptions(TypedDict, total=False):
    """What a distilling loss is told beside its pairs, see :meth:`DistillKLDiv.forward`."""

    teacher_scores: Tensor | None
    teacher_queries: Tensor | None
    teacher_documents: Tensor | None
    teacher_hard_negatives: Tensor | None
    listed: Tensor | None


class Lists(NamedTuple):
    """How many documents this rank has, which of them each query is compared with, and of how many there are scores.

    Attributes:
        n: queries.
        m: documents, those of the queries among them.
        hard_per_query: hard negatives of each.
        width: scores of each query; ``None`` where it takes all ranks to know.
    """

    n: int
    m: int
    hard_per_query: int
    width: int | None


class Teacher(NamedTuple):
    """A teacher's scores, or its embeddings; nothing of it carries gradient.

    Attributes:
        scores: ``[n, c]`` in the order of the candidates.
        places: numbers of each query's candidates among this rank's documents, ``[n, c]``, -1 for none; ``None`` for
            its own document and hard negatives, or for all there are.
        queries: embeddings, ``[n, g]``.
        documents: likewise, ``[m, g]``.
        hard_negatives: likewise, ``[k, g]``.
    """

    scores: Tensor | None = None
    places: Tensor | None = None
    queries: Tensor | None = None
    documents: Tensor | None = None
    hard_negatives: Tensor | None = None

    @classmethod
    def check(cls, options: TeacherOptions, lists: Lists, like: Tensor) -> Teacher:
        """Refuses what does not fit the batch.

        Args:
            options: as they came.
            lists: what it has to fit.
            like: the queries, on whose device everything is.

        Raises:
            ValueError: naming the argument, what came, and the likely fix.
        """
        places = options.get("listed")
        if places is not None:
            _check_places(places, lists, like)
            lists = lists._replace(width=places.shape[1])
        embeddings: dict[str, Tensor | None] = {
            "teacher_queries": options.get("teacher_queries"),
            "teacher_documents": options.get("teacher_documents"),
            "teacher_hard_negatives": options.get("teacher_hard_negatives"),
        }
        scores, came = options.get("teacher_scores"), [name for name, x in embeddings.items() if x is not None]
        if scores is not None and came:
            raise ValueError(f"teacher_scores: came with {came[0]}, which scores are made of; give one of them")
        if scores is not None:
            _check_floats("teacher_scores", scores, [lists.n, lists.width], like)
            return cls(scores.detach(), places)
        if not came:
            shape = _words([lists.n, lists.width], "c")
            raise ValueError(
                f"teacher_scores: expected {shape}, or teacher_queries and teacher_documents, got none of them; "
                "without a teacher take InfoNCE"
            )
        width = _width(embeddings)
        shapes = {"teacher_queries": [lists.n, width], "teacher_documents": [lists.m, width]}
        if lists.hard_per_query and places is None:
            shapes["teacher_hard_negatives"] = [lists.n, lists.hard_per_query, width]
        for name, x in embeddings.items():
            if name in shapes:
                _check_floats(name, x, shapes[name], like)
            elif x is not None:
                raise ValueError(f"{name}: no hard negatives are scored; leave it out")
        queries, documents, hard = (None if x is None else x.detach() for x in embeddings.values())
        assert queries is not None
        hard = queries[:0] if hard is None else rearrange(hard, "n h g -> (n h) g")
        return cls(None, places, queries, documents, hard)

    @property
    def has_embeddings(self) -> bool:
        """Whether scores are yet to be made."""
        return self.queries is not None

    def traits(self) -> list[Trait]:
        """What all ranks must do alike."""
        width = 0 if self.queries is None else self.queries.shape[1]
        return [
            Trait("teacher_queries", "dimension", width),
            Trait("teacher_scores", "1 if given", int(self.scores is not None)),
        ]

    def rescaled(self, normalization: str, factor: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, documents and hard negatives whose inner products are scores times a factor."""
        assert self.queries is not None
        assert self.documents is not None
        assert self.hard_negatives is not None
        query, document = NORMALIZATIONS[normalization]
        return (
            rescale(self.queries.to(dtype), query, factor),
            rescale(self.documents.to(dtype), document),
            rescale(self.hard_negatives.to(dtype), document),
        )

    def refuse_infinite(self, kind: str = "teacher_scores") -> None:
        """Names what is NaN or infinite, or which query has nothing but minus infinity.

        Args:
            kind: what the scores are called.

        Raises:
            ValueError: if there is any.
        """
        sides = {"queries": self.queries, "documents": self.documents, "hard_negatives": self.hard_negatives}
        for name, x in sides.items():
            wrong = 0 if x is None else int((~x.isfinite().all(-1)).sum())
            if x is not None and wrong:
                raise ValueError(
                    f"teacher_{name}: {wrong} of {len(x)} embeddings are NaN or infinite; look at the teacher's "
                    "precision"
                )
        if self.scores is None:
            return
        wrong = int((self.scores.isnan() | (self.scores == torch.inf)).sum())
        if wrong:
            raise ValueError(
                f"{kind}: {wrong} of {self.scores.numel()} scores are NaN or infinite; look at the teacher's "
                "precision, and write -inf for a candidate that is to be left out"
            )


def check_teacher_options(
    *, teacher_temperature: float, teacher_normalization: str, candidates: str = "listed"
) -> None:
    """Refuses what no teacher's scores can be read by.

    Raises:
        ValueError: naming the argument, what came, and the likely fix.
    """
    check_positive(teacher_temperature=teacher_temperature, hint="1 suits the scores of a cross-encoder")
    check_choice(get_args(TeacherNormalization), teacher_normalization=teacher_normalization)
    check_choice(get_args(DistillationCandidates), candidates=candidates)


def list_scores(queries: Tensor, documents: Tensor, hard_negatives: Tensor, places: Tensor | None) -> Tensor:
    """Scores of each query with a list of its own, ``[n, c]``.

    Args:
        queries: rescaled, ``[n, d]``.
        documents: rescaled, ``[m, d]`` with m >= n.
        hard_negatives: rescaled, ``[n * h, d]``, those of a query one after the other.
        places: numbers of documents, ``[n, c]``; ``None`` for the query's own document and then its hard negatives.
            What stands where one is -1, which is none, is no score.

    Example:
        >>> list_scores(torch.eye(2), 2 * torch.eye(2), torch.eye(2), None)
        tensor([[2., 1.],
                [2., 1.]])
    """
    if places is not None:
        return torch.einsum("nd,ncd->nc", queries, documents[places.clamp(min=0)])
    n = len(queries)
    first = (queries * documents[:n]).sum(-1, keepdim=True)
    if not len(hard_negatives):
        return first
    further = torch.einsum("nd,nhd->nh", queries, rearrange(hard_negatives, "(n h) d -> n h d", n=n))
    return torch.cat((first, further), 1)


def _width(embeddings: dict[str, Tensor | None]) -> int | None:
    queries = embeddings["teacher_queries"]
    if isinstance(queries, Tensor) and queries.ndim == 2:
        return queries.shape[1]
    return None


def _check_places(places: object, lists: Lists, like: Tensor) -> None:
    if lists.hard_per_query:
        raise ValueError(
            "listed: numbers are of documents, and hard_negatives have none; put those behind the documents"
        )
    is_whole = isinstance(places, Tensor) and not (places.is_floating_point() or places.is_complex())
    if not isinstance(places, Tensor) or not is_whole or places.dtype == torch.bool or places.ndim != 2:
        raise ValueError(f"listed: expected whole numbers [{lists.n}, c], got {_came(places)}")
    if len(places) != lists.n or places.shape[1] < 2:
        raise ValueError(
            f"listed: expected [{lists.n}, c] with two documents or more for each query, got {list(places.shape)}"
        )
    if places.device != like.device:
        raise ValueError(f"listed: expected on the device of queries, {like.device}, got {places.device}")
    lowest, highest = (int(value) for value in places.aminmax())
    if lowest < -1 or highest >= lists.m:
        wrong = lowest if lowest < -1 else highest
        raise ValueError(f"listed: {wrong} is out of range; there are {lists.m} documents, and -1 stands for none")


def _check_floats(name: str, x: object, shape: Sequence[int | None], like: Tensor) -> None:
    fits = isinstance(x, Tensor) and x.is_floating_point() and x.ndim == len(shape)
    fits = fits and isinstance(x, Tensor) and all(b in (None, a) for a, b in zip(x.shape, shape, strict=True))
    if not fits:
        unknown = "c" if name == "teacher_scores" else "g"
        raise ValueError(f"{name}: expected floating-point numbers {_words(shape, unknown)}, got {_came(x)}")
    assert isinstance(x, Tensor)
    if x.device != like.device:
        raise ValueError(f"{name}: expected on the device of queries, {like.device}, got {x.device}")


def _words(shape: Sequence[int | None], unknown: str) -> str:
    return f"[{', '.join(unknown if size is None else str(size) for size in shape)}]"


def _came(x: object) -> str:
    return f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
