"""Readers: models that answer a question from retrieved documents."""

from lightning_normdyn.tasks.readers.reader import Reader, SignatureReader
from lightning_normdyn.tasks.readers.seq2seq import Seq2SeqReader

__all__ = ["Reader", "Seq2SeqReader", "SignatureReader"]
