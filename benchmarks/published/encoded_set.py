"""A retrieval set encoded once by a model by name: shards on disk, so that a run that was ended goes on from there."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_normdyn.cli.user_errors import is_the_users, one_sentence
from lightning_normdyn.datasets import JudgedTexts, Judgements
from lightning_normdyn.datasets.formats.beir_hub import read_judged_texts
from lightning_normdyn.retrieval import AlphaSweep, sweep_alpha
from lightning_normdyn.tasks.audited_model import AuditedModel, encode_to_file, load_audited

SHARD = 50_000
ALPHAS = tuple(step / 4 for step in range(-16, 17))
MODELS = ("ViT-B-32/openai", "sentence-transformers/all-MiniLM-L12-v2")
"""CLIP ViT-B/32 by open_clip's name and tag, MiniLM-L12 by its name on the hub."""


class EncodedSet(NamedTuple):
    """What a model makes of a set.

    Attributes:
        texts: documents, queries, judgements.
        split: of its judgements.
        rows: positions of the queries that the split judges, ascending.
        queries: their embeddings ``[n, d]``.
        documents: shards of embeddings, read from disk as they are needed.
        truncated: shares of queries and documents that are longer than the model takes; ``None`` where they were
            encoded earlier.
    """

    texts: JudgedTexts
    split: str
    rows: Tensor
    queries: Tensor
    documents: Sequence[np.ndarray[Any, Any]]
    truncated: float | None

    def sweep(self, measure: str = "ndcg@10") -> AlphaSweep:
        """The measure of every judged query at every exponent."""
        judged = self.texts.judgements[self.split]
        places = torch.full((len(self.texts.queries),), -1, dtype=torch.int64)
        places[self.rows] = torch.arange(len(self.rows))
        judgements = Judgements(places[judged.queries], judged.documents, judged.grades)
        return sweep_alpha(
            self.queries, self.documents, judgements, alphas=ALPHAS, measure=measure, excluded_pairs=self._same_ids()
        )

    def _same_ids(self) -> tuple[Tensor, Tensor] | None:
        """Queries that are documents themselves, as in ArguAna, and which BEIR lets find all others alone."""
        documents = {id: place for place, id in enumerate(self.texts.documents.ids)}
        ids = [self.texts.queries.ids[int(row)] for row in self.rows]
        pairs = [(place, documents[id]) for place, id in enumerate(ids) if id in documents]
        return (torch.tensor(pairs).T[0], torch.tensor(pairs).T[1]) if pairs else None


def encode_set(model: str, name: str, out: Path, *, device: str = "cpu", batch_size: int = 64) -> EncodedSet:
    """Encodes what is not on disk yet.

    Args:
        model: a name of open_clip (``ViT-B-32/openai``), of the hub, or a local folder.
        name: of the set on the hub (``BeIR/scifact``), or a folder in BEIR's layout.
        out: where embeddings are kept, in a folder for each model and set.
        device: of the model.
        batch_size: texts at a time.
    """
    texts = read_judged_texts(name)
    splits = list(texts.judgements)
    split = "test" if "test" in splits else splits[0]
    rows = texts.judgements[split].queries.unique()
    folder = out / slug(model) / slug(name)
    folder.mkdir(parents=True, exist_ok=True)
    loaded: list[AuditedModel] = []

    def audited() -> AuditedModel:
        if not loaded:
            loaded.append(load_audited(model, device=device))
        return loaded[0]

    query_texts = [texts.queries.texts[int(row)] for row in rows]
    queries = _shard(folder / "queries.npy", query_texts, lambda part: audited().encode_queries(part), batch_size)
    documents = []
    for start in range(0, len(texts.documents), SHARD):
        part = texts.documents.texts[start : start + SHARD]
        file = folder / f"documents-{start // SHARD:05d}.npy"
        documents.append(_shard(file, part, lambda batch: audited().encode_texts(batch), batch_size))
    truncated = loaded[0].truncated_share if loaded else None
    return EncodedSet(texts, split, rows, torch.from_numpy(np.array(queries)), documents, truncated)


def _shard(
    file: Path, texts: Sequence[str], encode: Callable[[Sequence[str]], Tensor], batch_size: int
) -> np.ndarray[Any, Any]:
    """Embeddings of a file that holds as many rows as there are texts; encoded first where there is none."""
    if not file.exists() or len(np.load(file, mmap_mode="r")) != len(texts):
        encode_to_file(file, texts, encode, batch_size=batch_size, size_of=len)
    embeddings: np.ndarray[Any, Any] = np.load(file, mmap_mode="r")
    return embeddings


def run_published(main: Callable[[], int | None]) -> None:
    """Runs a command of this folder; what is the user's to mend is one sentence, and everything else a traceback."""
    try:
        sys.exit(main())
    except Exception as error:
        if not is_the_users(error):
            raise
        print(f"{Path(sys.argv[0]).name}: {one_sentence(error)}", file=sys.stderr)
        sys.exit(2)


def slug(name: str) -> str:
    """A name as one of a folder.

    Example:
        >>> slug("BeIR/scifact")
        'BeIR-scifact'
    """
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")


def published_parser(description: str | None, folder: str) -> argparse.ArgumentParser:
    """Options that all commands of this folder have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list(MODELS), help="names or folders")
    parser.add_argument("--out", type=Path, default=Path("published") / folder, help="embeddings, numbers and table")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=64)
    return parser
