"""Judged texts of few words, for encoders that are small."""

from __future__ import annotations

from lightning_normdyn.datasets import JudgedTexts, Judgements, Texts
from lightning_normdyn.tasks.sources import JudgedTextsSource

WORDS = ["a", "file", "is", "open", "closed", "the", "red", "door", "blue", "list"]


class Phrases(JudgedTextsSource):
    """Every query is answered by the document of its words in the other order."""

    def read(self):
        phrases = [f"{first} {second}" for first in WORDS for second in WORDS if first != second]
        documents = [" ".join(phrase.split()[::-1]) for phrase in phrases]
        sides = [
            Texts([f"{side}{n}" for n in range(len(phrases))], texts)
            for side, texts in (("q", phrases), ("d", documents))
        ]
        places = range(len(phrases))
        train, validation, test = (Judgements.of((n, n, 1.0) for n in places if n % 3 == rest) for rest in range(3))
        return JudgedTexts(*sides, {"train": train, "validation": validation, "test": test})
