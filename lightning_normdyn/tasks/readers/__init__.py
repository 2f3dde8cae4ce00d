"""Readers answer questions from retrieved passages: the second half of retrieval-augmented generation (RAG)."""

from lightning_normdyn.tasks.readers.reader import Reader, SignatureReader
from lightning_normdyn.tasks.readers.seq2seq import Seq2SeqReader

__all__ = ["Reader", "Seq2SeqReader", "SignatureReader"]
