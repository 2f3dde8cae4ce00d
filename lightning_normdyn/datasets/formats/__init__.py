"""Readers of public formats: nothing is dropped in silence.

What is wrong with a file is either refused, with a :class:`MalformedFileError` that names the file and the line, or
counted, and said in one warning for all that was read:

============================================================  ============================================
What is wrong                                                 What is done
============================================================  ============================================
a file or folder missing; two that could be meant             refused
no UTF-8 (older MovieLens titles: Latin-1, as published)      refused
gzip, Parquet, npz or tar broken or cut short                 refused
no JSON, or a field missing or of another kind                refused
a column missing, or a row of another width                   refused
a grade, score, rating or timestamp that is no finite number  refused
an id of a document, query or item given twice                refused
a pair judged twice: otherwise / the same                     counted: the later taken / kept once
a pickle with more than arrays                                refused
judgements or triples of unknown documents or queries         counted, left out (refused if nothing is left)
mined negatives of unknown documents or queries               counted, left out (refused if nothing is left)
empty documents, queries, sentences, captions                 counted, kept
images broken or missing                                      counted, left out with caption and group
samples of a shard without image or caption                   counted, left out
classes without an image, files that are no images by name    counted, left out
a split without scores                                        counted, left out
excluded documents that are not searched anyway               counted, left out
facts or interactions repeated                                counted, kept
columns of triples behind the third (times, scores)           counted, left out
a sample with several images and one caption                  counted, the first taken
evaluation facts known or with names unknown to training      counted, kept
texts of a class that training lacks                          counted, kept
items without a title                                         counted, kept with an empty one
============================================================  ============================================

CRLF line ends, a byte-order mark, blank lines and ids that JSON has as numbers do no harm and are not mentioned.
"""

from lightning_normdyn.datasets.formats.beir import read_beir, stream_beir_corpus
from lightning_normdyn.datasets.formats.beir_hub import read_judged_texts
from lightning_normdyn.datasets.formats.bright import read_bright
from lightning_normdyn.datasets.formats.cifar10h import read_cifar10, read_cifar10h
from lightning_normdyn.datasets.formats.hard_negatives import (
    read_hard_negatives,
    write_hard_negative_texts,
    write_hard_negatives,
)
from lightning_normdyn.datasets.formats.image_folder import read_image_folder
from lightning_normdyn.datasets.formats.image_text import read_image_text
from lightning_normdyn.datasets.formats.labelled_text import read_labelled_texts
from lightning_normdyn.datasets.formats.movielens import read_movielens
from lightning_normdyn.datasets.formats.ms_marco import MsMarcoTriples, TextTriple
from lightning_normdyn.datasets.formats.omniglot import read_omniglot
from lightning_normdyn.datasets.formats.sick import read_sick
from lightning_normdyn.datasets.formats.sts import read_sts
from lightning_normdyn.datasets.formats.triples import read_triples
from lightning_normdyn.datasets.formats.web_dataset import CaptionedImage, WebDataset, read_web_dataset

__all__ = [
    "CaptionedImage",
    "MsMarcoTriples",
    "TextTriple",
    "WebDataset",
    "read_beir",
    "read_bright",
    "read_cifar10",
    "read_cifar10h",
    "read_hard_negatives",
    "read_image_folder",
    "read_image_text",
    "read_judged_texts",
    "read_labelled_texts",
    "read_movielens",
    "read_omniglot",
    "read_sick",
    "read_sts",
    "read_triples",
    "read_web_dataset",
    "stream_beir_corpus",
    "write_hard_negative_texts",
    "write_hard_negatives",
]
