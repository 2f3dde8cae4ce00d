"""Exponents of norms in evaluators of sentence-transformers: score functions, a calibration, and no last Normalize."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_normdyn.caution import caution
from lightning_normdyn.core.object_checks import check_sequence
from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.retrieval.exponent.calibration import Calibration, calibrate
from lightning_normdyn.retrieval.exponent.scoring import NormAwareScore
from lightning_normdyn.retrieval.exponent.sweep import ALPHAS, sweep_alpha

ScoreFunction = Callable[[Tensor, Tensor], Tensor]
SAME_NORM = 0.01
"""Norms whose range is within this share of the longest are as good as one norm."""


def score_functions(
    alphas: Sequence[float], *, normalization: Normalization = "cosine", alpha_query: float = 0.0
) -> dict[str, ScoreFunction]:
    """Score functions for ``InformationRetrievalEvaluator(score_functions=...)``, one for each exponent.

    The evaluator ranks by each and calls its numbers ``alpha=-0.5_ndcg@10`` and the like. Its primary metric is that of
    the best exponent, chosen on the queries that it is reported for: :func:`calibrate_evaluator` says what choosing one
    gains on other queries.

    Args:
        alphas: further exponents of the document's norm; 0 is the normalization itself.
        normalization: what the embeddings were trained with, except ``learnable``; at exponent 0 ``cosine`` is the
            cosine and ``dot`` the inner product.
        alpha_query: further exponent of the query's norm, which changes scores and no ranking.

    Returns:
        Name to function of queries ``[n, d]`` and documents ``[m, d]``, which gives ``[n, m]``.

    Raises:
        ValueError: if there are no exponents, or one is not finite.

    Example:
        >>> functions = score_functions([0.0, -1.0])
        >>> queries, documents = torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0], [0.0, 4.0]])
        >>> {name: score(queries, documents).tolist() for name, score in functions.items()}
        {'alpha=0': [[1.0, 0.8...]], 'alpha=-1': [[0.1..., 0.2...]]}
    """
    check_sequence(alphas=alphas)
    if not len(alphas):
        raise ValueError("alphas: expected one exponent at least, got none; [0.0] is the cosine alone")
    scores = [NormAwareScore(normalization, alpha_query=alpha_query, alpha=alpha) for alpha in alphas]
    return {f"alpha={score.alpha:.12g}": score.scores for score in scores}


def calibrate_evaluator(
    model: Any,
    evaluator: Any,
    *,
    alphas: Sequence[float] | Tensor = ALPHAS,
    measure: str = "ndcg@10",
    folds: int = 5,
    resamples: int = 2_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> Calibration:
    """Chooses the exponent on an evaluator's queries and says what it gains on queries that did not choose it.

    Texts are encoded once, by the evaluator itself, with its prompts and batch size, without the model's last
    ``Normalize``, which would leave all norms 1.

    Args:
        model: a ``SentenceTransformer``.
        evaluator: an ``InformationRetrievalEvaluator``; its own score functions have no part in this.
        alphas: exponents to try, 0 among them.
        measure: as :func:`~lightning_normdyn.retrieval.sweep_alpha` takes it.
        folds: of the cross-validation.
        resamples: of every bootstrap, and flips of every test.
        level: of the intervals.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.

    Returns:
        The record; ``advice`` is the exponent to take, ``gain`` what it gains, held out, with its interval.

    Raises:
        ValueError: if the evaluator has no queries, corpus and relevant documents, or as
            :func:`~lightning_normdyn.retrieval.calibrate` does.
    """
    missing = [name for name in ("queries", "corpus", "relevant_docs", "embed_inputs") if not hasattr(evaluator, name)]
    if missing:
        raise ValueError(
            f"evaluator: expected an InformationRetrievalEvaluator, got {type(evaluator).__name__}, which has no "
            f"{missing[0]}"
        )
    with without_normalize(model):
        queries, documents = (
            evaluator.embed_inputs(
                model,
                texts,
                encode_fn_name=role,
                prompt_name=getattr(evaluator, f"{side}_prompt_name", None),
                prompt=getattr(evaluator, f"{side}_prompt", None),
            )
            for texts, role, side in (
                (evaluator.queries, "query", "query"),
                (evaluator.corpus, "document", "corpus"),
            )
        )
    relevant = {query: dict.fromkeys(documents, 1.0) for query, documents in evaluator.relevant_docs.items()}
    judgements = judgements_by_id(evaluator.queries_ids, evaluator.corpus_ids, relevant)
    say_same_norms(documents, subject="documents")
    sweep = sweep_alpha(queries, documents, judgements, alphas=alphas, measure=measure)
    return calibrate(sweep, folds=folds, resamples=resamples, level=level, generator=generator)


def judgements_by_id(
    query_ids: Sequence[str], document_ids: Sequence[str], relevant: dict[str, dict[str, float]]
) -> Judgements:
    """Judgements by position of those that an evaluator has by name.

    Those of documents that are not in the corpus cannot be found by any score and are left out, which is said.

    Args:
        query_ids: of the rows of the queries.
        document_ids: of the rows of the documents.
        relevant: query to document to grade; queries that are not among the rows are left out.

    Example:
        >>> judgements_by_id(["q"], ["a", "b"], {"q": {"b": 2.0}}).documents
        tensor([1])
    """
    rows = {document: row for row, document in enumerate(document_ids)}
    pairs = [
        (row, rows.get(document, -1), float(grade))
        for row, query in enumerate(query_ids)
        for document, grade in relevant.get(query, {}).items()
    ]
    known = [pair for pair in pairs if pair[1] >= 0]
    if len(known) < len(pairs):
        caution(
            f"{len(pairs) - len(known)} of {len(pairs)} judgements are of documents that the corpus lacks, and are "
            "left out; what the evaluator itself reports may count them as not found",
            stacklevel=3,
        )
    return Judgements.of(known)


def say_same_norms(vectors: Tensor, *, subject: str) -> bool:
    """Says that all norms are the same, so that no exponent changes a ranking; whether they are.

    Args:
        vectors: ``[n, d]``; fewer than two say nothing.
        subject: what they are.

    Example:
        >>> say_same_norms(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), subject="documents")
        False
    """
    norms = vectors.detach().float().norm(dim=-1)
    norms = norms[norms > 0]
    is_same = len(norms) > 1 and bool(norms.amax() - norms.amin() <= SAME_NORM * norms.amax())
    if is_same:
        caution(
            f"norms of the {subject} are all between {float(norms.amin()):.4g} and {float(norms.amax()):.4g}, so that "
            "an exponent changes next to nothing; if the model's code divides them out, take its vectors from before",
            stacklevel=3,
        )
    return is_same


@contextmanager
def without_normalize(model: Any) -> Iterator[bool]:
    """Lets a ``SentenceTransformer`` give what goes into its last ``Normalize``; nothing else about it changes.

    Cosines are the same with and without. Wrappers are looked through (their ``model`` or ``_model``); of a model that
    does not end in a ``Normalize`` nothing changes.

    Args:
        model: a ``SentenceTransformer``, or what holds one.

    Yields:
        Whether there is such a module.

    Example:
        >>> with without_normalize(nn.Sequential(nn.Linear(2, 2))) as ends_in_normalize:
        ...     ends_in_normalize
        False
    """
    normalize = _last_normalize(model)
    if normalize is None:
        yield False
        return
    key = getattr(normalize, "module_input_name", "sentence_embedding")
    output_key = getattr(normalize, "module_output_name", key)
    inputs: list[Tensor] = []

    def keep_input(module: nn.Module, args: tuple[dict[str, Tensor], ...]) -> None:
        del module
        inputs[:] = [args[0][key]]

    def put_back(module: nn.Module, args: Any, features: dict[str, Tensor]) -> dict[str, Tensor]:
        del module, args
        return {**features, output_key: inputs.pop()}

    handles = [normalize.register_forward_pre_hook(keep_input), normalize.register_forward_hook(put_back)]
    try:
        yield True
    finally:
        for handle in handles:
            handle.remove()


def _last_normalize(model: Any) -> nn.Module | None:
    while not isinstance(model, nn.Sequential):
        inner = getattr(model, "model", None)
        model = getattr(model, "_model", None) if inner is None else inner
        if model is None:
            return None
    modules = list(model)
    return modules[-1] if modules and type(modules[-1]).__name__ == "Normalize" else None
