"""Retrieval-augmented generation: find documents, then answer from them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.core.object_checks import check_instance
from lightning_normdyn.core.statistics.ranking import grade_ranking, ranking_ndcg, ranking_recall
from lightning_normdyn.tasks.contrast.contrast_data import ContrastData, Split
from lightning_normdyn.tasks.contrast.encoded import Encoded, Exponents
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.contrast.ranking_measures import rank_documents
from lightning_normdyn.tasks.contrast.symmetry import FunctionalSymmetry
from lightning_normdyn.tasks.encoders import TextEncoder
from lightning_normdyn.tasks.readers import Reader, SignatureReader
from lightning_normdyn.tasks.retrieval.retrieval import Retrieval, RetrievalData
from lightning_normdyn.tasks.sources import JudgedTextsSource, StandardLibraryQuestions

_DEPTH = 10


class Rag(Retrieval):
    """A dual encoder whose documents a frozen reader answers from.

    The retriever trains as in :class:`~lightning_normdyn.tasks.Retrieval`; the reader answers in evaluations alone, and
    is no part of the model: neither trained nor saved with it.

    Args:
        encoder: of texts, see :class:`~lightning_normdyn.tasks.Retrieval`.
        reader: such as :class:`~lightning_normdyn.tasks.readers.Seq2SeqReader` with a name or a local path;
            :class:`~lightning_normdyn.tasks.readers.SignatureReader`, which answers the default questions, if left out.
        passages: documents that the reader is given.
        options: of :class:`~lightning_normdyn.tasks.Retrieval`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    symmetry = FunctionalSymmetry(False, "questions seek, documents are found")
    headline = "exact_match"

    def __init__(
        self, *, encoder: TextEncoder | None = None, reader: Reader | None = None, passages: int = 3, **options: Any
    ) -> None:
        super().__init__(encoder=encoder, **options)
        check_instance(Reader, optional=True, reader=reader, hint="Seq2SeqReader asks a model")
        if isinstance(passages, bool) or not isinstance(passages, int) or not 1 <= passages <= _DEPTH:
            raise ValueError(f"passages: expected 1 to {_DEPTH} documents for the reader, got {passages!r}")
        self.reader: Reader = SignatureReader() if reader is None else reader
        self.passages = passages

    def measures(self, encoded: Encoded, exponents: Exponents) -> dict[str, Tensor]:
        """Exact match and F1 of the answers (see the module), and how well was found.

        Returns:
            ``exact_match`` and ``f1``, NaN for a question without answers; ``recall@<passages>``, the share of the
            relevant documents that the reader sees, and ``ndcg@10``.
        """
        if encoded.split is None or encoded.split.answers is None:
            raise ValueError(
                "encoded: expected questions with answers, got none; take RagData with a source that knows answers"
            )
        return self._measured(encoded.split, rank_documents(encoded, exponents, _DEPTH))

    def floors(self, data: ContrastData, split: Split) -> dict[str, float]:
        """What the same reader answers from the documents that BM25 finds."""
        if not isinstance(data, RagData) or not data.bm25:
            return {}
        values = self._measured(data.evaluation(split), data.rank_by_words(split, _DEPTH))
        return {"bm25": float(values[self.headline].nanmean())}

    def _measured(self, split: EvaluationSplit, ranking: Tensor) -> dict[str, Tensor]:
        passages = [
            [split.documents[place] for place in places if place >= 0]
            for places in ranking[:, : self.passages].tolist()
        ]
        answers_given = self.reader.read(list(split.queries), passages, self.device)
        right = split.answers or ()
        ranked = grade_ranking(ranking, split.judgements, len(split.queries))
        of_ranking = {
            f"recall@{self.passages}": partial(ranking_recall, top_k=self.passages),
            "ndcg@10": partial(ranking_ndcg, top_k=10),
        }
        of_answers = {"exact_match": exact_match, "f1": token_f1}
        values = {
            name: torch.tensor(
                [
                    judge(answer, answers) if answers else torch.nan
                    for answer, answers in zip(answers_given, right, strict=True)
                ],
                dtype=torch.float64,
            )
            for name, judge in of_answers.items()
        }
        return values | {name: measure(ranked) for name, measure in of_ranking.items()}


class RagData(RetrievalData):
    """Questions with answers, documents and judgements.

    Args:
        source: of questions with answers, such as a BEIR folder whose queries have ``metadata.answer``; questions about
            the running Python's standard library if left out.
        options: of :class:`~lightning_normdyn.tasks.RetrievalData`.

    Raises:
        ValueError: if no question of a split has an answer.
    """

    def __init__(self, source: JudgedTextsSource | None = None, **options: Any) -> None:
        super().__init__(StandardLibraryQuestions() if source is None else source, **options)

    def evaluation(self, split: Split) -> EvaluationSplit:
        """The questions that the split judges with their answers, and all documents."""
        evaluation = super().evaluation(split)
        if not any(evaluation.answers or ()):
            raise ValueError(
                f"source: expected answers to the questions of the {split} split, got none; a retrieval set without "
                "answers is for RetrievalData"
            )
        return evaluation


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, articles and surplus spaces, in that order.

    Example:
        >>> normalize_answer("The  abc.ABC!")
        'abcabc'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1 if the answer is one of the right ones after :func:`normalize_answer`, else 0.

    Example:
        >>> exact_match("a dict", ["Dict", "mapping"])
        1.0
    """
    return float(normalize_answer(answer) in {normalize_answer(candidate) for candidate in right})


def token_f1(answer: str, right: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of the answer's words, against the best of the right ones.

    Example:
        >>> token_f1("ordered dict", ["dict"])
        0.6666666666666666
    """
    return max(
        (_f1(normalize_answer(answer).split(), normalize_answer(candidate).split()) for candidate in right), default=0.0
    )


def _f1(answer: list[str], right: list[str]) -> float:
    if not answer or not right:
        return float(answer == right)
    common = sum((Counter(answer) & Counter(right)).values())
    return 2 * common / (len(answer) + len(right))
