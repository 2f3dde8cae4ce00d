"""``Reader``, which answers questions from retrieved passages: the base class, and a rule-based one for signatures."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch


class Reader(ABC):
    """Answers questions from the passages that a search found for them (RAG); it is never trained."""

    @abstractmethod
    def read(
        self, questions: Sequence[str], documents: Sequence[Sequence[str]], device: torch.device | None = None
    ) -> list[str]:
        """Answers each question.

        Args:
            questions: ``n`` texts.
            documents: for each, what was found, best first; may be nothing.
            device: where to compute.

        Returns:
            ``n`` answers, empty where there is none.
        """


_NAME = re.compile(r"(?:class|def) (\w+)")
_BASE = re.compile(r"class \w+\(([\w.]+)[,)]")
_ARGUMENT = re.compile(r"def \w+\((?:(?:self|cls)\b(?:, )?)?(?:/, )?(\w+)")


class SignatureReader(Reader):
    """Takes the answer from the best document whose first line is a signature that can give one.

    A question with the word *inherit* is answered by the first base of a class, one with *argument* by the first
    argument of a function (``self`` and ``cls`` left out), any other by the name. It answers
    :func:`lightning_normdyn.datasets.standard_library.question_answers` without fault where the right document comes
    first, so that what is measured is retrieval; of other questions it knows nothing.

    Example:
        >>> SignatureReader().read(["What is the first argument of ...?"], [["class A(B)", "def f(self, x=1)"]])
        ['x']
    """

    def read(
        self, questions: Sequence[str], documents: Sequence[Sequence[str]], device: torch.device | None = None
    ) -> list[str]:
        """Answers each question, see :meth:`Reader.read`."""
        return [_answer(question, passages) for question, passages in zip(questions, documents, strict=True)]


def _answer(question: str, documents: Sequence[str]) -> str:
    head = question.partition(":")[0]
    pattern = _BASE if "inherit" in head else _ARGUMENT if "argument" in head else _NAME
    matches = (pattern.match(document) for document in documents)
    return next((match[1] for match in matches if match), "")
