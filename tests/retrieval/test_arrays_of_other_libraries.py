"""Everything in ``retrieval`` takes arrays of any library and finds of them what it finds of tensors, to the bit."""

import contextlib
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import sparse

from lightning_normdyn import core, retrieval
from lightning_normdyn.core.array_conversion import as_tensor, as_tensors
from lightning_normdyn.datasets import Judgements
from lightning_normdyn.retrieval import audit
from lightning_normdyn.retrieval.search.tiles import tile_width

N, M, D = 12, 60, 8


class Frame:
    """A data frame's way: rows by label, columns with types of their own, an array by ``__array__`` alone."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.shape = array, array.shape

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._array if dtype is None else self._array.astype(dtype)

    def __getitem__(self, label: object) -> object:
        raise KeyError(label)


class DeviceArray:
    """CuPy's way: memory by DLPack, and a refusal to make a numpy array in silence."""

    def __init__(self, array: np.ndarray) -> None:
        self._tensor = torch.tensor(array)

    def __dlpack__(self, **options: object) -> object:
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> object:
        return self._tensor.__dlpack_device__()

    def __array__(self, *options: object) -> np.ndarray:
        raise TypeError("implicit conversion to a numpy array is not allowed")


class TracedArray(Frame):
    """JAX's way: shape, type and slices, an array by ``__array__``, and no writing to it."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array.copy())
        self._array.flags.writeable = False
        self.dtype = array.dtype

    def __getitem__(self, rows: Any) -> "TracedArray":
        return TracedArray(self._array[rows])


def mapped(array: np.ndarray, folder: Any, name: str) -> np.ndarray:
    np.save(folder / f"{name}.npy", array)
    return np.load(folder / f"{name}.npy", mmap_mode="r")


class Inputs(NamedTuple):
    """Everything the calls below are made of, as arrays of one kind."""

    queries: Any
    documents: Any
    norms: Any
    length: Any
    labels: Any
    pairs: tuple[Any, Any]
    alphas: Any
    owners: Any
    relevance: Any
    votes: Any
    classes: Any
    negatives: Any
    shares: Any


def arrays(dtype: type) -> Inputs:
    draw = np.random.default_rng(3)
    documents = draw.normal(size=(M, D)) * np.exp(0.5 * draw.normal(size=(M, 1)))
    queries = documents[:N] + 0.7 * draw.normal(size=(N, D))
    relevance = (draw.random((N, M)) < 0.1).astype(np.float32)
    relevance[:, 0] = 1
    return Inputs(
        queries.astype(dtype),
        documents.astype(dtype),
        np.linalg.norm(documents, axis=1).astype(dtype),
        draw.integers(1, 90, M).astype(dtype),
        draw.integers(0, M, N),
        (np.arange(N), draw.integers(0, M, N)),
        np.linspace(-1, 1, 5).astype(np.float64),
        np.arange(M) // 2,
        relevance,
        draw.integers(0, 5, (M, 3)).astype(dtype),
        draw.integers(0, 3, M),
        draw.integers(0, M, (N, 1)),
        draw.random(M).astype(dtype),
    )


def converted(inputs: Inputs, convert: Any) -> Inputs:
    fields = {
        name: tuple(map(convert, value)) if isinstance(value, tuple) else convert(value)
        for name, value in inputs._asdict().items()
    }
    return Inputs(**fields)


def judgements(inputs: Inputs) -> Judgements:
    labels = as_tensor("labels", inputs.labels)
    return Judgements(torch.arange(N), labels, torch.ones(N))


def sweep(inputs: Inputs) -> retrieval.AlphaSweep:
    return retrieval.sweep_alpha(
        inputs.queries,
        inputs.documents,
        Judgements(*inputs.pairs, as_tensor("ones", inputs.norms)[:N].abs() + 1),
        alphas=inputs.alphas,
        excluded_pairs=(inputs.pairs[0], inputs.labels),
    )


def array_sweep(inputs: Inputs, shift: float = 0.0) -> retrieval.AlphaSweep:
    values = np.random.default_rng(0).random((5, N)) + shift * np.arange(5).reshape(5, 1)
    kind = type(inputs.alphas)
    same_kind = torch.tensor if kind is torch.Tensor else np.asarray if issubclass(kind, np.ndarray) else kind
    return retrieval.AlphaSweep(inputs.alphas, same_kind(values), "ndcg@10")


def confounds(inputs: Inputs) -> object:
    sweep_of = partial(retrieval.sweep_alpha, inputs.queries, judgements=judgements(inputs), alphas=inputs.alphas)
    return retrieval.confound_report(
        sweep_of, inputs.documents, inputs.length, covariates={"owner": inputs.owners}, controls=["owner"], resamples=20
    )


def norm_audit(inputs: Inputs) -> object:
    return audit.audit_norms(
        lambda: [inputs.documents],
        M,
        length=inputs.length,
        covariates={"owner": inputs.owners},
        controls=["owner"],
        judged_queries=audit.JudgedQueries(inputs.queries, judgements(inputs), alphas=(-1.0, 0.0, 1.0)),
    )


def filled_table(inputs: Inputs) -> torch.Tensor:
    queries, documents = ([str(row) for row in range(count)] for count in (N, M))
    source = retrieval.MiningSource(queries, documents, inputs.labels, excluded_pairs=inputs.pairs)
    source.update(inputs.negatives)
    before = source.negatives.indices.clone()
    source.negatives.fill(inputs.negatives)
    return torch.cat([before, source.negatives.indices, source.allowed(inputs.negatives)])


def sweep_of_parts(inputs: Inputs) -> retrieval.AlphaSweep:
    parts = Judgements(torch.arange(N), as_tensor("labels", inputs.labels) // 2, torch.ones(N))
    return retrieval.sweep_alpha(inputs.queries, inputs.documents, parts, alphas=inputs.alphas, owners=inputs.owners)


K = {"resamples": 20}
CALLS = {
    "exact_top_k": lambda x: retrieval.exact_top_k(x.queries, x.documents, 5, excluded_pairs=x.pairs, chunk_size=7),
    "exact_top_k of chunks": lambda x: retrieval.exact_top_k(x.queries, iter([x.documents, x.documents]), 5),
    "norm_aware_top_k": lambda x: retrieval.norm_aware_top_k(x.queries, x.documents, 5, alpha=0.3),
    "scores": lambda x: retrieval.NormAwareScore(alpha=0.3).scores(x.queries, x.documents),
    "fold_documents": lambda x: retrieval.NormAwareScore(alpha=0.3).fold_documents(x.documents),
    "sweep_alpha": sweep,
    "sweep_alpha of chunks": lambda x: retrieval.sweep_alpha(x.queries, [x.documents], judgements(x), alphas=x.alphas),
    "sweep_alpha of parts": sweep_of_parts,
    "calibrate": lambda x: retrieval.calibrate(array_sweep(x), **K),
    "compare_models": lambda x: retrieval.compare_models(array_sweep(x), array_sweep(x, 0.1), **K),
    "explain_gain": lambda x: retrieval.explain_gain(*(array_sweep(x, shift) for shift in (0.2, 0.1, 0.0)), **K),
    "confound_report": confounds,
    "likelihood_exponent": lambda x: retrieval.likelihood_exponent(x.relevance, x.norms, x.relevance),
    "residual_norms": lambda x: retrieval.residual_norms(x.norms, x.length, controls={"owner": x.owners}),
    "predicted_norms": lambda x: retrieval.predicted_norms(x.norms, x.length),
    "length_norms": lambda x: retrieval.length_norms(x.length),
    "rescaled": lambda x: retrieval.rescaled(x.documents, x.norms),
    "export_vectors": lambda x: retrieval.export_vectors(x.documents, alpha=-0.3),
    "mine_hard_negatives": lambda x: vars(
        retrieval.mine_hard_negatives(x.queries, x.documents, x.labels, excluded_pairs=x.pairs, document_ids=x.owners)
    ),
    "retrieval_confidences": lambda x: retrieval.retrieval_confidences(x.queries, x.documents),
    "classification_confidences": lambda x: retrieval.classification_confidences(x.documents, x.votes),
    "confidence_table": lambda x: retrieval.confidence_table({"max_similarity": x.norms, "b": x.length}, x.norms, **K),
    "detection_table": lambda x: retrieval.detection_table({"max_similarity": x.norms}, {"max_similarity": x.length}),
    "compare_temperatures": lambda x: retrieval.compare_temperatures(x.votes, x.classes, x.norms, **K),
    "label_entropy": lambda x: retrieval.label_entropy(x.votes),
    "uncertainty_agreement": lambda x: retrieval.uncertainty_agreement({"norm": x.norms}, x.votes, **K),
    "filter_table": lambda x: retrieval.filter_table(x.queries, x.documents, judgements(x), shares=[0.5], **K),
    "QueryBankNormalization": lambda x: retrieval.QueryBankNormalization(x.documents, x.queries)(x.queries),
    "CrossDomainLocalScaling": lambda x: retrieval.CrossDomainLocalScaling(x.documents, x.queries)(x.queries),
    "baseline_scores": lambda x: {
        name: score(x.queries) for name, score in retrieval.baseline_scores(x.documents, x.queries).items()
    },
    "specificity_table": lambda x: retrieval.specificity_table(x.norms, {"owner": x.owners}, x.length, **K),
    "quantile_bands": lambda x: retrieval.quantile_bands(x.norms),
    "recall_auroc": lambda x: retrieval.recall_auroc({"norm": x.norms, "b": x.length}, x.documents, x.classes),
    "conformal_threshold": lambda x: retrieval.conformal_threshold(x.norms),
    "abstention_table": lambda x: retrieval.abstention_table({"norm": x.norms, "b": x.length}, x.shares, risk=0.4),
    "norm_weights": lambda x: retrieval.norm_weights(x.documents, 1.5),
    "cluster_by_norm": lambda x: retrieval.cluster_by_norm(x.documents, 3),
    "compare_clusterings": lambda x: retrieval.compare_clusterings(x.documents, x.classes, exponents=[1.0], seeds=2),
    "MiningSource": filled_table,
    "hubness": lambda x: retrieval.hubness(x.documents, k=3),
    "k_occurrences": lambda x: retrieval.k_occurrences(x.negatives, M),
    "popularity_share": lambda x: retrieval.popularity_share(x.negatives, M),
    "direction_health": lambda x: audit.direction_health(x.documents),
    "direction_health of chunks": lambda x: audit.direction_health([x.documents, x.queries]),
    "effective_rank": lambda x: core.effective_rank(x.documents),
    "uniformity": lambda x: core.uniformity(x.documents),
    "common_direction": lambda x: core.common_direction(x.documents),
    "alignment": lambda x: core.alignment(x.documents, x.documents, groups=x.owners),
    "audit_norms": norm_audit,
}


def flat(value: object) -> list[object]:
    """All numbers, words and tensors of a record."""
    if isinstance(value, dict):
        return [leaf for key in value for leaf in (key, *flat(value[key]))]
    if isinstance(value, list | tuple):
        return [leaf for entry in value for leaf in flat(entry)]
    return [(value.dtype, value.tolist())] if isinstance(value, torch.Tensor) else [value]


KINDS = {
    "numpy": lambda array, _: array,
    "backwards": lambda array, _: np.ascontiguousarray(array[::-1])[::-1],
    "big endian": lambda array, _: array.astype(array.dtype.newbyteorder(">")),
    "memmap": lambda array, folder: mapped(array, folder, f"array{len(list(folder.iterdir()))}"),
    "frame": lambda array, _: Frame(array),
    "dlpack": lambda array, _: DeviceArray(array),
    "traced": lambda array, _: TracedArray(array),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_arrays_of_all_kinds_give_what_tensors_give(tmp_path, dtype) -> None:
    inputs = arrays(dtype)
    tensors = converted(inputs, torch.tensor)
    expected = {name: flat(call(tensors)) for name, call in CALLS.items()}
    # One type runs through all calls, the others through those that read documents in chunks: the converter is one.
    for kind, convert in KINDS.items():
        others = converted(inputs, lambda array, convert=convert: convert(array, tmp_path))
        for name, call in CALLS.items():
            if dtype == np.float32 or name in ("exact_top_k", "norm_aware_top_k", "sweep_alpha", "export_vectors"):
                assert repr(flat(call(others))) == repr(expected[name]), (kind, name)


def test_every_public_name_that_takes_arrays_is_called() -> None:
    records = {name for name in retrieval.__all__ if hasattr(getattr(retrieval, name), "_fields")}
    called = {name.split(" of ")[0] for name in CALLS} | {"NormAwareScore", "NegativeTable", "HardNegatives"}
    assert set(retrieval.__all__) - records - called == {"scoring_verdict"}


@pytest.mark.parametrize(
    "name", [name for name in CALLS if name not in ("calibrate", "compare_models", "explain_gain")]
)
def test_lists_are_named_and_never_an_attribute_error(name) -> None:
    lists = converted(arrays(np.float32), lambda array: array.tolist())
    with contextlib.suppress(
        ValueError
    ):  # a list of numbers is taken where it can be nothing else, and named elsewhere
        CALLS[name](lists)


OF_EMBEDDINGS = (
    "exact_top_k, exact_top_k of chunks, norm_aware_top_k, scores, fold_documents, sweep_alpha, sweep_alpha of chunks, "
    "rescaled, export_vectors, mine_hard_negatives, retrieval_confidences, filter_table, QueryBankNormalization, "
    "CrossDomainLocalScaling, baseline_scores, confound_report, audit_norms, recall_auroc, norm_weights, "
    "cluster_by_norm, compare_clusterings, "
    "hubness, direction_health, direction_health of chunks, effective_rank, uniformity, common_direction"
)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.bool_])
@pytest.mark.parametrize("name", OF_EMBEDDINGS.split(", "))
def test_codes_are_refused(name, dtype) -> None:
    inputs = arrays(np.float32)
    codes = inputs._replace(documents=(inputs.documents * 20).astype(dtype))
    for came in (codes, codes._replace(documents=torch.tensor(codes.documents))):
        with pytest.raises(ValueError, match=r"^(documents|vectors|embeddings): .* which are codes"):
            CALLS[name](came)


def test_a_memmap_is_read_in_pieces(tmp_path) -> None:
    width = tile_width(3, torch.device("cpu"))
    rows = np.random.default_rng(0).normal(size=(3 * width + 1, 2)).astype(np.float32)
    documents = mapped(rows, tmp_path, "documents")
    reads: list[int] = []

    class Counted(np.ndarray):
        def __getitem__(self, rows: Any) -> Any:
            piece = super().__getitem__(rows)
            reads.append(len(piece))
            return piece

    expected = retrieval.exact_top_k(torch.tensor(rows[:3]), torch.tensor(rows), 4)
    best = retrieval.exact_top_k(rows[:3], documents.view(Counted), 4, chunk_size=1)
    assert torch.equal(best.indices, expected.indices)
    assert torch.equal(best.scores, expected.scores)
    assert reads == [width, width, width, 1]


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        ([[1.0]], r"^x: expected a tensor or an array, got list; numpy.asarray"),
        (np.array([[None]]), r"^x: expected numbers, got ndarray of object; convert them"),
        (np.array(["a"]), r"^x: expected numbers, got ndarray of <U1"),
        (np.ma.masked_array([1.0, 2.0], [0, 1]), r"^x: expected numbers, got an array with 1 masked entries"),
        (np.ndarray, r"^x: expected a tensor or an array, got type"),
        (None, r"^x: expected a tensor or an array, got NoneType"),
        (
            sparse.csr_matrix(np.eye(2)),
            r"^x: expected a tensor or an array, got csr_matrix; its \.toarray\(\) makes one",
        ),
        (sparse.coo_array(np.eye(2)), r"^x: expected a tensor or an array, got coo_array; its \.toarray\(\) makes one"),
    ],
)
def test_what_is_no_array_of_numbers_is_named(array, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        as_tensors(x=array)


def test_tensors_stay_themselves_and_arrays_are_not_written_to() -> None:
    tensor = torch.ones(2, requires_grad=True)
    assert as_tensor("x", tensor) is tensor
    assert as_tensor("x", np.ma.masked_array([1.0, 2.0])).tolist() == [1.0, 2.0]
    assert as_tensor("x", np.ones(1, np.longdouble)).dtype == torch.float64
    inputs = arrays(np.float32)
    same = [array for array in inputs if isinstance(array, np.ndarray)]
    before = [array.copy() for array in same]
    for call in CALLS.values():
        call(inputs)
    assert all(np.array_equal(array, old) for array, old in zip(same, before, strict=True))
