"""What exports refuse before a vector is written: what a target lacks, and vectors of two kinds in one place."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_normdyn.retrieval.indexes.manifest import Manifest
from lightning_normdyn.retrieval.indexes.writer import Destination

FEWEST_NEIGHBOURS, MOST_NEIGHBOURS = 2, 1024
"""Of a node of a graph: FAISS ends in a segmentation fault with one, and takes all memory with very many."""


def check_index(index: str, choices: Sequence[str], *, target: str) -> None:
    """Refuses an index that a target does not have.

    Raises:
        ValueError: if it is none of ``choices``.
    """
    if index not in choices:
        raise ValueError(f"index: expected {' or '.join(choices)} for {target}, got {index!r}")


def check_neighbours(neighbours: int | None, *, library: str) -> None:
    """Refuses graphs that no library builds well, or at all.

    Args:
        neighbours: of a node; ``None`` for the library's own number.
        library: its name.

    Raises:
        ValueError: if a node has one, or more than 1,024.

    Example:
        >>> check_neighbours(1, library="USearch")
        Traceback (most recent call last):
        ValueError: m: expected 2 to 1024 neighbours of a node of a graph of USearch, got 1; 16 to 64 are usual
    """
    if neighbours is not None and not FEWEST_NEIGHBOURS <= neighbours <= MOST_NEIGHBOURS:
        raise ValueError(
            f"m: expected {FEWEST_NEIGHBOURS} to {MOST_NEIGHBOURS} neighbours of a node of a graph of {library}, got "
            f"{neighbours}; 16 to 64 are usual"
        )


def check_vectors_alone(destination: Destination, *, target: str) -> None:
    """Refuses what collections and tables of databases alone can do.

    Raises:
        ValueError: if it was asked for.
    """
    databases = "qdrant, lancedb, pgvector, milvus or a feed (elasticsearch, opensearch, vespa)"
    if destination.upsert:
        raise ValueError(f"upsert: expected {databases}, got {target}; add rows to a file with --append")
    if destination.payload:
        raise ValueError(f"payload: expected {databases}, got {target}, which holds vectors alone; leave it out")


def check_fresh(destination: Destination, *, target: str) -> None:
    """Refuses to append where vectors are replaced as a whole.

    Raises:
        ValueError: if that was asked for.
    """
    if destination.append:
        raise ValueError(f"append: expected a file, got {target}; add rows to it with --upsert")
    if destination.upsert and destination.overwrite:
        raise ValueError("upsert: expected no overwrite beside it, which replaces what is there; leave one out")


def check_upsert(existing: Manifest | None, manifest: Manifest, *, place: str) -> None:
    """Refuses to put vectors among others that carry another power of the norm.

    Args:
        existing: what was noted of those that are there; ``None`` if no export wrote them.
        manifest: of those that are to come.
        place: what holds them, in words.

    Raises:
        ValueError: if they differ, or it cannot be known.

    Example:
        >>> check_upsert(Manifest(1.0), Manifest(0.5), place="the table 'docs'")
        Traceback (most recent call last):
            ...
        ValueError: upsert: expected exponent 1.0 as of the vectors in the table 'docs', got 0.5; export with the ...
    """
    if manifest.radius is not None:
        raise ValueError(
            "upsert: expected no augment, whose dimension is made for all vectors at once; export all with --overwrite"
        )
    if existing is None and (manifest.keep_norm or manifest.exponent != 1):
        raise ValueError(
            f"upsert: expected embeddings as they are (--normalization dot), since {place} was filled by something "
            f"else, got exponent {manifest.exponent:g}{' and norms apart' if manifest.keep_norm else ''}; export all "
            "that it holds with --overwrite"
        )
    for name in ("exponent", "keep_norm", "metric", "radius", "dtype"):
        theirs, ours = getattr(existing, name, None), getattr(manifest, name)
        if existing is not None and ours != theirs:
            raise ValueError(
                f"upsert: expected {name} {theirs!r} as of the vectors in {place}, got {ours!r}; export with the same "
                "options, or all anew with --overwrite"
            )


def check_existing_ids(existing_ids: Sequence[str], new_ids: Sequence[str], *, place: str, overwrite: bool) -> None:
    """Refuses to replace vectors unless that was asked for and every id of theirs gets a new one.

    Args:
        existing_ids: ids that are there.
        new_ids: ids that are to come.
        place: what holds them, in words.
        overwrite: whether it was asked for.

    Raises:
        ValueError: if one is missing, or it was not.
    """
    extra_ids = sorted(set(existing_ids).difference(new_ids))
    if extra_ids:
        raise ValueError(
            f"out: {place} holds {len(extra_ids):,} other ids, '{extra_ids[0]}' among them, which keep vectors of "
            "another kind; export all that it holds, or choose another name"
        )
    if not overwrite:
        raise ValueError(f"out: {place} exists already; pass --overwrite to replace it, or choose another name")
