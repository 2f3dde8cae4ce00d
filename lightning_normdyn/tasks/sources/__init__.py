"""Where the tasks' data comes from: sets made of the Python installation, and public formats by path.

Every source is a class that a config can name, with a method ``read()`` that gives a record of
:mod:`lightning_normdyn.datasets`; nothing is read before it is called.
"""

from lightning_normdyn.tasks.sources.graded_pairs import GradedPairsSource, Sick, StandardLibraryNames, StsBenchmark
from lightning_normdyn.tasks.sources.judged_texts import (
    BeirFolder,
    BrightFolder,
    JudgedTextsSource,
    StandardLibraryDocstrings,
    StandardLibraryQuestions,
)

__all__ = [
    "BeirFolder",
    "BrightFolder",
    "GradedPairsSource",
    "JudgedTextsSource",
    "Sick",
    "StandardLibraryDocstrings",
    "StandardLibraryNames",
    "StandardLibraryQuestions",
    "StsBenchmark",
]
