"""Where the tasks' data comes from: sets made of the Python installation, and public formats by path.

Every source is a class that a config can name, with a method ``read()`` that gives a record of
:mod:`lightning_normdyn.datasets`; nothing is read before it is called.
"""

from lightning_normdyn.tasks.sources.captioned_images import (
    CaptionedImagesSource,
    ImageTextTable,
    StandardLibraryGlyphCaptions,
    WebDatasetShards,
)
from lightning_normdyn.tasks.sources.graded_pairs import GradedPairsSource, Sick, StandardLibraryNames, StsBenchmark
from lightning_normdyn.tasks.sources.interactions import InteractionsSource, MovieLensFolder, StandardLibraryNameUses
from lightning_normdyn.tasks.sources.judged_texts import (
    BeirFolder,
    BrightFolder,
    JudgedTextsSource,
    StandardLibraryDocstrings,
    StandardLibraryQuestions,
)
from lightning_normdyn.tasks.sources.knowledge_graph import (
    KnowledgeGraphSource,
    StandardLibraryClassGraph,
    TripleFolder,
)
from lightning_normdyn.tasks.sources.labelled_images import (
    ImageFolder,
    LabelledImagesSource,
    Omniglot,
    StandardLibraryGlyphClasses,
)
from lightning_normdyn.tasks.sources.labelled_texts import LabelledTextFiles, LabelledTextsSource

__all__ = [
    "BeirFolder",
    "BrightFolder",
    "CaptionedImagesSource",
    "GradedPairsSource",
    "ImageFolder",
    "ImageTextTable",
    "InteractionsSource",
    "JudgedTextsSource",
    "KnowledgeGraphSource",
    "LabelledImagesSource",
    "LabelledTextFiles",
    "LabelledTextsSource",
    "MovieLensFolder",
    "Omniglot",
    "Sick",
    "StandardLibraryClassGraph",
    "StandardLibraryDocstrings",
    "StandardLibraryGlyphCaptions",
    "StandardLibraryGlyphClasses",
    "StandardLibraryNameUses",
    "StandardLibraryNames",
    "StandardLibraryQuestions",
    "StsBenchmark",
    "TripleFolder",
    "WebDatasetShards",
]
