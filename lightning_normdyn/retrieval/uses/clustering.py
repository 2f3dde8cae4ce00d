"""Norm-weighted spherical k-means: powers of norms as weights of directions, for any library's k-means."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike
from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.dynamics.geometry import precise_norm
from lightning_normdyn.core.embedding_codes import as_embeddings
from lightning_normdyn.core.number_checks import check_count, check_finite_number
from lightning_normdyn.core.object_checks import check_choice
from lightning_normdyn.core.tensor_checks import check_real_tensors

ENGINES = ("auto", "faiss", "sklearn")
"""Libraries whose k-means runs; ``auto`` takes the first that is installed."""

Engine = Literal["auto", "faiss", "sklearn"]
_MOST_SEED = 2**31 - 1  # FAISS counts seeds in C's int


class NormWeights(NamedTuple):
    """Directions and how much each weighs.

    Attributes:
        directions: vectors of length 1, ``[n, d]``.
        weights: powers of their norms with mean 1, ``[n]``.
    """

    directions: Tensor
    weights: Tensor

    @property
    def vectors(self) -> Tensor:
        """Directions times weights, ``[n, d]``: a spherical k-means of these, without weights, is the weighted one.

        A centre is the direction of a sum, and the nearest centre by inner product is the same for a vector of any
        length. The library must leave the vectors as long as they are, and give its centres length 1.
        """
        return self.directions * self.weights.unsqueeze(1)

    @property
    def effective_share(self) -> float:
        """Share of equally weighted items that would say as much: ``(sum w)² / (n · sum w²)`` (Kish 1965)."""
        weights = self.weights.double()
        return float(weights.sum().square() / weights.square().sum() / len(weights))


class Clusters(NamedTuple):
    """What a k-means came to.

    Attributes:
        places: cluster of each item, int64 ``[n]``.
        centers: ``[k, d]``; of length 1 by FAISS, but for a plain k-means.
        engine: whose k-means ran.
    """

    places: Tensor
    centers: Tensor
    engine: str


def norm_weights(embeddings: ArrayLike, exponent: float = 1.0) -> NormWeights:
    """Folds a power of norms into weights of directions: ``w = |x|^exponent``, divided by its mean.

    For any k-means that takes weights, as scikit-learn's: ``KMeans(k).fit(directions, sample_weight=weights)``. The
    attribute ``vectors`` has the weights folded in, for one that takes none, as ``faiss.Kmeans(d, k, spherical=True)``.

    Args:
        embeddings: ``[n, d]``, none of them zero.
        exponent: of the norm, as in scoring: 0 weighs all alike, 1 makes ``vectors`` the embeddings up to a factor.

    Returns:
        The record, in float32, in float64 if the embeddings are.

    Raises:
        ValueError: if embeddings are no finite ``[n, d]``, or one is zero; or the exponent is no finite number, or one
            that leaves weights that are not finite.

    Example:
        >>> weights = norm_weights(torch.tensor([[3.0, 4.0], [0.0, 15.0]]), exponent=1.0)
        >>> weights.weights, weights.vectors
        (tensor([0.5000, 1.5000]), tensor([[0.3000, 0.4000],
                [0.0000, 1.5000]]))
    """
    check_finite_number(exponent=exponent, hint="0 weighs all alike")
    vectors = checked_points(embeddings)
    largest = vectors.abs().amax(1, keepdim=True)  # first, for squares of 1e-200 or 1e200 leave float64 too
    scaled = vectors / largest
    log_norms = precise_norm(scaled).double().log() + largest.squeeze(1).double().log()
    powers = (exponent * log_norms - (exponent * log_norms).amax()).exp()
    directions = rescale(scaled, 1.0)
    return NormWeights(directions, (powers / powers.mean()).to(directions.dtype))


def cluster_by_norm(
    embeddings: ArrayLike,
    clusters: int,
    *,
    exponent: float | None = 1.0,
    engine: Engine = "auto",
    seed: int = 0,
    restarts: int = 1,
    iterations: int = 30,
) -> Clusters:
    """Runs norm-weighted spherical k-means, by FAISS or scikit-learn.

    Maximises ``sum_i |x_i|^exponent · cos(x_i, c(i))`` over k directions and the cluster of each item. FAISS gives its
    centres length 1 and does just that. scikit-learn's centres are weighted means and keep their length, so that it
    minimises weighted squared distances of directions, which is nearly the same where clusters are equally tight.

    Args:
        embeddings: ``[n, d]``, none of them zero.
        clusters: k.
        exponent: of the norm; 0 for spherical k-means; ``None`` for plain k-means, squared distances of the vectors as
            they are.
        engine: ``faiss`` or ``sklearn`` (scikit-learn); ``auto`` for the first that is installed.
        seed: of the first centres: FAISS takes items at random, scikit-learn goes by k-means++.
        restarts: from other first centres; the best by the library's own objective counts.
        iterations: at most, of each.

    Returns:
        The record.

    Raises:
        ValueError: if embeddings are no finite ``[n, d]``, one is zero where directions count, there are fewer than
            clusters, or another argument makes no sense.
        ModuleNotFoundError: if the library is not installed, with what to install.

    Example:
        >>> x = torch.tensor([[1.0, 0.1], [2.0, 0.0], [0.0, 1.0], [0.1, 3.0]])
        >>> places = cluster_by_norm(x, 2).places
        >>> bool(places[0] == places[1]), bool(places[1] == places[2]), bool(places[2] == places[3])
        (True, False, True)
    """
    vectors = checked_points(embeddings, zeros=exponent is None)
    check_count(clusters=clusters, restarts=restarts, iterations=iterations)
    check_count(0, seed=seed)
    if clusters > len(vectors):
        raise ValueError(f"clusters: expected at most the {len(vectors)} items, got {clusters}")
    library = engine_of(engine)
    kmeans = _faiss_kmeans if library == "faiss" else _sklearn_kmeans
    options = KMeansOptions(clusters, seed % _MOST_SEED, restarts, iterations)
    if exponent is None:
        # k-means does not see the scale, but squares of 1e20 in float32 are infinite, and FAISS then ends the process.
        scale = float(vectors.abs().amax()) or 1.0
        plain = kmeans(NormWeights(vectors / scale, vectors.new_ones(len(vectors))), options, spherical=False)
        return plain._replace(centers=(plain.centers.double() * scale).to(vectors.dtype))
    return kmeans(norm_weights(vectors, exponent), options, spherical=True)


class KMeansOptions(NamedTuple):
    """How a k-means runs, whichever library's it is; see :func:`cluster_by_norm`."""

    clusters: int
    seed: int
    restarts: int
    iterations: int


def engine_of(engine: str) -> str:
    """The library that runs: ``faiss`` or ``sklearn``.

    Raises:
        ValueError: if it is no word for one.
        ModuleNotFoundError: if it is not installed, or none is.
    """
    check_choice(ENGINES, engine=engine)
    names = ("faiss", "sklearn") if engine == "auto" else (engine,)
    installed = next((name for name in names if find_spec(name) is not None), None)
    if installed is None:
        missing = " or ".join("scikit-learn" if name == "sklearn" else name for name in names)
        raise ModuleNotFoundError(
            f"clustering needs {missing}; install with: pip install 'lightning-normdyn[clusters]'"
        )
    return installed


def checked_points(embeddings: ArrayLike, *, zeros: bool = False) -> Tensor:
    """Embeddings on the CPU in float32 at least.

    Args:
        embeddings: ``[n, d]``.
        zeros: whether a zero vector will do, which has no direction.

    Raises:
        ValueError: if they are none, or not finite.
    """
    (vectors,) = as_embeddings(embeddings=embeddings)
    check_real_tensors(embeddings=vectors)
    if vectors.ndim != 2 or not vectors.numel():
        raise ValueError(f"embeddings: expected [n, d] of one item or more, got {tuple(vectors.shape)}")
    vectors = vectors.detach().cpu()
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    bad_rows = (~vectors.isfinite().all(1)).nonzero()
    if len(bad_rows):
        raise ValueError(f"embeddings: expected finite numbers, got NaN or infinity in row {int(bad_rows[0])}")
    zero_rows = (~vectors.any(1)).nonzero()
    if len(zero_rows) and not zeros:
        raise ValueError(
            f"embeddings: expected vectors with a direction, got zero in row {int(zero_rows[0])}; leave such rows out"
        )
    return vectors


def _faiss_kmeans(points: NormWeights, options: KMeansOptions, *, spherical: bool) -> Clusters:
    """With weights folded into vectors, so that the objective by which FAISS picks a restart is the weighted one."""
    import faiss

    vectors = points.vectors.float().contiguous().numpy()
    dim = vectors.shape[1]
    parameters: Any = faiss.ClusteringParameters()
    parameters.spherical, parameters.seed = spherical, options.seed
    parameters.niter, parameters.nredo = options.iterations, options.restarts
    # It warns below the one, and takes a sample above the other.
    parameters.min_points_per_centroid, parameters.max_points_per_centroid = 1, len(vectors)
    clustering: Any = faiss.Clustering(dim, options.clusters, parameters)
    index: Any = faiss.IndexFlatIP(dim) if spherical else faiss.IndexFlatL2(dim)
    clustering.train(vectors, index)
    centers = faiss.vector_to_array(clustering.centroids).reshape(options.clusters, dim)
    places = index.search(vectors, 1)[1].squeeze(1)
    return Clusters(torch.from_numpy(places), torch.from_numpy(centers), "faiss")


def _sklearn_kmeans(points: NormWeights, options: KMeansOptions, *, spherical: bool) -> Clusters:
    from sklearn.cluster import KMeans

    kmeans: Any = KMeans(
        options.clusters, n_init=options.restarts, max_iter=options.iterations, random_state=options.seed
    )
    weights = points.weights.numpy() if spherical else None
    kmeans.fit(points.directions.contiguous().numpy(), sample_weight=weights)
    places = torch.as_tensor(kmeans.labels_, dtype=torch.int64)
    return Clusters(places, torch.as_tensor(kmeans.cluster_centers_), "sklearn")
