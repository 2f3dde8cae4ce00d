"""Base class of readers, which answer questions from retrieved documents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch


class Reader(ABC):
    """Answers questions from documents; it is never trained."""

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
