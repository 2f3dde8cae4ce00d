"""Sources of the tasks' data: public formats by path, and sets made of the Python installation.

Every source is a class that a config can name, with a method ``read()`` that gives a record of
:mod:`lightning_normdyn.datasets`; nothing is read before it is called. A new format
is a reader in :mod:`lightning_normdyn.datasets.formats` and a class in one of these files, whose short name works in
configs at once; the lists of the two packages name what is shipped.
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
from lightning_normdyn.tasks.sources.labelled_items import (
    ImageFolder,
    LabelledImagesSource,
    LabelledTextFiles,
    LabelledTextsSource,
    Omniglot,
    StandardLibraryGlyphClasses,
)

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
