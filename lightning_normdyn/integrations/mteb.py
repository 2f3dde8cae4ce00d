"""Exponents of norms in tasks of MTEB: an encoder that folds them into vectors, and a calibration for a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.integrations.sentence_transformers import judgements_by_id, say_same_norms, without_normalize
from lightning_normdyn.retrieval.exponent.calibration import Calibration, calibrate
from lightning_normdyn.retrieval.exponent.scoring import NormAwareScore
from lightning_normdyn.retrieval.exponent.sweep import ALPHAS, sweep_alpha


class NormAwareEncoder:
    """A model whose vectors carry exponents of their norms, for ``mteb.evaluate`` (MTEB 2).

    Vectors are what ``normdyn export`` writes: a document is its direction times ``|d|^power``, a query likewise with
    the exponent of queries, and they are compared by inner product, in search indexes too. Texts of tasks that know no
    queries and documents (similarity, pairs, clustering, classification) have the exponent of documents, on both sides
    where there are two. With exponent 0 all scores are cosines.

    The model's last ``Normalize`` is passed by, since behind it every norm is 1. Exponents stand in the name of the
    experiment (``model.mteb_model_meta.experiment_name``), by which MTEB keeps results apart. To encode texts once for
    many exponents, put a ``CachedEmbeddingWrapper`` inside: ``NormAwareEncoder(CachedEmbeddingWrapper(model, folder))``
    with a folder that no other model writes to, the same model behind its ``Normalize`` included.

    Args:
        model: a ``SentenceTransformer``, a ``ModelMeta`` to load one by, or any encoder of MTEB.
        score: the exponents; the cosine if left out.

    Raises:
        ValueError: if the model is no encoder, such as a cross-encoder or one that gives a vector for each token.

    Example:
        >>> class Encoder:  # stands for a model
        ...     mteb_model_meta = None
        ...     def encode(self, inputs, **options):
        ...         return np.array(inputs, dtype=np.float32)
        >>> model = NormAwareEncoder(Encoder(), NormAwareScore(alpha=-1.0))
        >>> documents = model.encode([[3.0, 4.0], [0.0, 2.0]], prompt_type="document")
        >>> documents.tolist()
        [[0.11..., 0.15...], [0.0, 0.5]]
        >>> model.similarity(model.encode([[0.0, 9.0]], prompt_type="query"), documents).tolist()
        [[0.15..., 0.5]]
    """

    def __init__(self, model: Any, score: NormAwareScore | None = None) -> None:
        score = NormAwareScore() if score is None else score
        if not isinstance(score, NormAwareScore):
            raise ValueError(f"score: expected a NormAwareScore, got {score!r}; NormAwareScore(alpha={score!r}) is one")
        self._encoder = _mteb_encoder(model)
        self._score = score
        self._has_seen_documents = False
        self.mteb_model_meta = _meta(self._encoder.mteb_model_meta, score)

    def encode(self, inputs: Any, *, prompt_type: Any = None, **options: Any) -> Any:
        """Vectors ``[n, d]`` with their exponents folded in, float32 at least, of the model's kind of array.

        Args:
            inputs: what MTEB gives an encoder.
            prompt_type: ``query``, ``document`` or ``None``.
            options: what else MTEB gives an encoder.

        Raises:
            ValueError: if the model gives something else than finite vectors, one a text.
        """
        with without_normalize(self._encoder):
            embeddings = self._encoder.encode(inputs, prompt_type=prompt_type, **options)
        vectors = _checked(embeddings)
        if prompt_type == "query":
            folded = rescale(vectors, 1 - self._score.query_power)
        else:
            if not self._has_seen_documents and self._score.document_power:
                self._has_seen_documents = True
                say_same_norms(vectors, subject="documents")
            folded = self._score.fold_documents(vectors)
        return folded.cpu().numpy() if isinstance(embeddings, np.ndarray) else folded

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Inner products ``[n, m]`` of vectors ``[n, d]`` and ``[m, d]`` from :meth:`encode`; one may be ``[d]``."""
        return _rows(embeddings1) @ _rows(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Inner products ``[n]`` of vectors ``[n, d]`` with those at the same place."""
        return (_rows(embeddings1) * _rows(embeddings2)).sum(-1)


class _RecordingEncoder(NormAwareEncoder):
    """Keeps the vectors that a task of retrieval asks for, and finds nothing."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, NormAwareScore("dot"))
        self._has_seen_documents = True
        self._chunks: dict[str, list[Tensor]] = {"query": [], "document": []}

    def encode(self, inputs: Any, *, prompt_type: Any = None, **options: Any) -> Any:
        vectors = super().encode(inputs, prompt_type=prompt_type, **options)
        self._chunks[getattr(prompt_type, "value", prompt_type)].append(torch.as_tensor(vectors).cpu())
        return vectors

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        return torch.zeros(len(embeddings1), len(embeddings2))

    def vectors(self, side: str) -> Tensor:
        """Vectors ``[n, d]`` of ``query`` or ``document``, in the order of the task's rows."""
        return torch.cat(self._chunks[side])


def calibrate_task(
    model: Any,
    task: Any,
    *,
    split: str | None = None,
    alphas: Sequence[float] | Tensor = ALPHAS,
    measure: str = "ndcg@10",
    folds: int = 5,
    resamples: int = 2_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
    encode_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Calibration]:
    """Chooses the exponent of document norms for a retrieval task and says what it gains on other queries of it.

    Texts are encoded once, in the way that ``mteb.evaluate`` encodes them. The gain is cross-validated; still, an
    exponent belongs to be chosen on a split for development where the task has one.

    Args:
        model: as :class:`NormAwareEncoder` takes it.
        task: a retrieval task of MTEB that searches a whole corpus.
        split: of the task; the first that it is evaluated on if left out.
        alphas: exponents to try, 0 among them.
        measure: as :func:`~lightning_normdyn.retrieval.sweep_alpha` takes it; MTEB's main score is ``ndcg@10``.
        folds: of the cross-validation.
        resamples: of every bootstrap, and flips of every test.
        level: of the intervals.
        generator: of random numbers, on the CPU; a fresh one with seed 0 for each subset if left out.
        encode_kwargs: as ``mteb.evaluate`` takes them, such as ``{"batch_size": 64}``.

    Returns:
        Subset of the task (``default`` where it has none) to its calibration: ``advice`` is the exponent for
        ``NormAwareScore(alpha=...)``, ``gain`` what it gains, held out, with its interval.

    Raises:
        ValueError: if the task is no such task or lacks the split, or as :func:`~lightning_normdyn.retrieval.calibrate`
            does.
    """
    splits = _checked_splits(task, split)
    return {
        subset: calibrate(
            _sweep_of_subset(model, task, splits[0], subset, alphas, measure, dict(encode_kwargs or {})),
            folds=folds,
            resamples=resamples,
            level=level,
            generator=generator,
        )
        for subset in task.hf_subsets
    }


def _checked_splits(task: Any, split: str | None) -> list[str]:
    from mteb.abstasks import AbsTaskRetrieval

    if not isinstance(task, AbsTaskRetrieval):
        raise ValueError(
            f"task: expected a retrieval task of MTEB, got {type(task).__name__}; mteb.get_task(name) gives one by name"
        )
    if task.skip_first_result:
        raise ValueError(f"task: expected one that counts its first result, got {task.metadata.name}, which skips it")
    splits = list(task.eval_splits)
    if split is not None and split not in splits:
        raise ValueError(
            f"split: expected one of {', '.join(splits)}, got {split!r}; name it in the task's eval_splits"
        )
    return splits if split is None else [split]


def _sweep_of_subset(
    model: Any,
    task: Any,
    split: str,
    subset: str,
    alphas: Sequence[float] | Tensor,
    measure: str,
    encode_kwargs: dict[str, Any],
) -> Any:
    recorder = _RecordingEncoder(model)
    task.evaluate(recorder, split, subsets_to_run=[subset], encode_kwargs=encode_kwargs)
    data = task.dataset[subset][split]
    if data["top_ranked"]:
        raise ValueError(
            f"task: expected one that searches its whole corpus, got {task.metadata.name}, which reranks; "
            "mteb.evaluate runs it with a NormAwareEncoder"
        )
    query_ids, document_ids = list(data["queries"]["id"]), list(data["corpus"]["id"])
    queries, documents = recorder.vectors("query"), recorder.vectors("document")
    say_same_norms(documents, subject=f"documents of {task.metadata.name}")
    return sweep_alpha(
        queries,
        documents,
        judgements_by_id(query_ids, document_ids, data["relevant_docs"]),
        alphas=alphas,
        measure=measure,
        excluded_pairs=_same_ids(query_ids, document_ids) if task.ignore_identical_ids else None,
    )


def _same_ids(query_ids: Sequence[str], document_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Positions of queries and of the documents that are the same text by their ids."""
    rows = {document: row for row, document in enumerate(document_ids)}
    pairs = [(place, rows[query]) for place, query in enumerate(query_ids) if query in rows]
    queries, documents = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return queries, documents


def _mteb_encoder(model: Any) -> Any:
    """The model with MTEB's methods, which its own evaluation would wrap it into."""
    if type(model).__module__.split(".")[0] == "sentence_transformers" and hasattr(model, "encode"):
        from mteb.models import SentenceTransformerEncoderWrapper
        from sentence_transformers import SentenceTransformer

        if isinstance(model, SentenceTransformer):
            return SentenceTransformerEncoderWrapper(model)
    if callable(getattr(model, "load_model", None)):
        model = model.load_model()
    if not callable(getattr(model, "encode", None)) or not hasattr(model, "mteb_model_meta"):
        raise ValueError(
            f"model: expected a SentenceTransformer or an encoder of MTEB, one vector a text, got "
            f"{type(model).__name__}; mteb.get_model(name) gives one by name"
        )
    return model


def _meta(meta: Any, score: NormAwareScore) -> Any:
    """What MTEB knows a model by, with the exponents; ``None`` of a model that has none."""
    if meta is None:
        return None
    from mteb.models.model_meta import ScoringFunction

    exponents = {
        "norm_exponent_documents": float(f"{score.document_power:.12g}"),
        "norm_exponent_queries": float(f"{score.query_power:.12g}"),
    }
    return meta.model_copy(
        update={
            "similarity_fn_name": ScoringFunction.DOT_PRODUCT,
            "experiment_kwargs": {**(meta.experiment_kwargs or {}), **exponents},
        }
    )


def _checked(embeddings: Any) -> Tensor:
    """Vectors in float32 at least.

    Raises:
        ValueError: if they are none.
    """
    is_dense = isinstance(embeddings, (np.ndarray, Tensor)) and embeddings.ndim == 2
    if not is_dense or (isinstance(embeddings, Tensor) and embeddings.layout != torch.strided):
        shape = tuple(embeddings.shape) if hasattr(embeddings, "shape") else type(embeddings).__name__
        raise ValueError(f"model: expected dense vectors [n, d], one a text, got {shape}; a pooled model gives such")
    vectors = torch.as_tensor(embeddings).detach()
    if not vectors.is_floating_point():
        raise ValueError(f"model: expected floating-point vectors, got {vectors.dtype}; leave 'precision' out")
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    bad_rows = (~vectors.isfinite().all(1)).nonzero()
    if len(bad_rows):
        raise ValueError(
            f"model: expected finite vectors, got NaN or infinity in row {int(bad_rows[0])} of {len(vectors)}; "
            "load the model in float32"
        )
    return vectors


def _rows(embeddings: Any) -> Tensor:
    vectors = torch.as_tensor(embeddings)
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return vectors if vectors.ndim > 1 else vectors.unsqueeze(0)
