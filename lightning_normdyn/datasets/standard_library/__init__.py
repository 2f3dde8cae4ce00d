"""For demos, shipped configs and `reproduce` alone: data sets made of the Python installation itself, no download.

They are read from the sources, which are never imported, and from the fonts that matplotlib ships. Neither the hash
seed nor the locale, nor what else is installed, changes them; another version of Python (or, for pictures, of
matplotlib and Pillow) may. Splits are decided by digests of names.
"""

from lightning_normdyn.datasets.standard_library.class_graph import class_graph
from lightning_normdyn.datasets.standard_library.docstring_retrieval import docstring_retrieval
from lightning_normdyn.datasets.standard_library.glyph_captions import glyph_caption_splits, glyph_captions
from lightning_normdyn.datasets.standard_library.glyph_classes import glyph_classes
from lightning_normdyn.datasets.standard_library.name_relatedness import name_relatedness
from lightning_normdyn.datasets.standard_library.name_uses import name_uses
from lightning_normdyn.datasets.standard_library.question_answers import question_answers

__all__ = [
    "class_graph",
    "docstring_retrieval",
    "glyph_caption_splits",
    "glyph_captions",
    "glyph_classes",
    "name_relatedness",
    "name_uses",
    "question_answers",
]
