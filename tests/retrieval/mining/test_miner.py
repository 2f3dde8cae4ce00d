import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from mining_oracle import mine, score

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.retrieval import mine_hard_negatives
from lightning_normdyn.retrieval.exponent.scoring import NormAwareScore
from lightning_normdyn.retrieval.mining.miner import DocumentShare, mine as mine_share
from lightning_normdyn.retrieval.mining.options import MiningOptions
from lightning_normdyn.retrieval.mining.positives import PositivePairs, first_of_equals

LACKING = pytest.mark.filterwarnings("ignore:.*queries have fewer than")
OPTIONS = [
    {},
    {"relative_margin": 0.05},
    {"absolute_margin": 0.2},
    {"absolute_margin": 0.0},
    {"absolute_margin": 0.1, "relative_margin": 0.2, "max_score": 0.3},
    {"max_score": 0.4, "range_min": 2},
    {"min_score": 0.1, "relative_margin": 0.1},
    {"range_max": 9, "relative_margin": 0.3},
    {"range_min": 3, "range_max": 12, "absolute_margin": 0.1, "min_score": -0.2},
    {"range_min": 5},
]


def embeddings(n=7, m=60, d=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    documents = torch.randn(m, d, generator=generator, dtype=torch.float64)
    documents = documents * torch.rand(m, 1, generator=generator, dtype=torch.float64).add(0.3)
    positives = [torch.randperm(m, generator=generator)[: 1 + query % 3].tolist() for query in range(n)]
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    queries = torch.stack([documents[places].mean(0) for places in positives]) + 0.6 * noise
    return queries.to(dtype), documents.to(dtype), positives


def check(mined, expected, num_negatives):
    for row, scores, above, (negatives, _, skipped) in zip(
        mined.indices.tolist(), mined.scores.tolist(), mined.above_limits.tolist(), expected, strict=True
    ):
        assert row == negatives + [-1] * (num_negatives - len(negatives))
        assert [value == -math.inf for value in scores] == [place < 0 for place in row]
        assert above == skipped


@LACKING
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("normalization", ["cosine", "dot", "qnorm", "dnorm"])
def test_negatives_are_those_of_a_loop(options, normalization):
    queries, documents, positives = embeddings()
    mined = mine_hard_negatives(
        queries, documents, positives, num_negatives=4, normalization=normalization, alpha=0.3, **options
    )
    expected = mine(
        queries.tolist(),
        documents.tolist(),
        positives,
        num_negatives=4,
        normalization=normalization,
        alpha=0.3,
        **options,
    )
    check(mined, expected, 4)
    for query, row in enumerate(mined.indices.tolist()):
        for place, value in zip(row, mined.scores[query].tolist(), strict=True):
            if place >= 0:
                assert value == pytest.approx(
                    score(queries[query].tolist(), documents[place].tolist(), normalization, 0.3), abs=1e-12
                )
    for query, place, value in zip(*mined.positives, mined.positive_scores, strict=True):
        other = score(queries[query].tolist(), documents[place].tolist(), normalization, 0.3)
        assert float(value) == pytest.approx(other, abs=1e-12)


@LACKING
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 6),
    m=st.integers(8, 40),
    h=st.integers(1, 6),
    names=st.integers(1, 40),
    absolute=st.none() | st.floats(0, 1),
    relative=st.none() | st.floats(0, 1),
    highest=st.none() | st.floats(-1, 1),
    range_min=st.integers(0, 4),
    extent=st.none() | st.integers(0, 20),
    strategy=st.sampled_from(["top", "random"]),
)
def test_no_positive_no_copy_and_no_excluded_pair_is_found_and_limits_hold(
    seed, n, m, h, names, absolute, relative, highest, range_min, extent, strategy
):
    queries, documents, positives = embeddings(n, m, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(names, (m,), generator=generator).tolist()
    excluded = (torch.randint(n, (5,), generator=generator), torch.randint(m, (5,), generator=generator))
    options = {
        "num_negatives": h,
        "range_min": range_min,
        "range_max": None if extent is None else range_min + h + extent,
        "absolute_margin": absolute,
        "relative_margin": relative,
        "max_score": highest,
    }
    mined = mine_hard_negatives(
        queries,
        documents,
        positives,
        document_ids=ids,
        excluded_pairs=excluded,
        sampling_strategy=strategy,
        seed=seed,
        **options,
    )
    expected = mine(
        queries.tolist(),
        documents.tolist(),
        positives,
        ids=ids,
        excluded=list(zip(*(column.tolist() for column in excluded), strict=True)),
        **options,
    )
    if strategy == "top":
        check(mined, expected, h)
    for query, row in enumerate(mined.indices.tolist()):
        negatives = [place for place in row if place >= 0]
        pool = expected[query][1][: None if extent is not None else 10 * h]
        assert set(negatives) <= set(pool)
        assert len(negatives) == len(set(negatives)) == min(h, len(pool))
        assert not {ids[place] for place in negatives} & {ids[place] for place in positives[query]}
        assert negatives == sorted(negatives, key=pool.index)
    assert mined.lacking.tolist() == [q for q, (_, pool, _) in enumerate(expected) if len(pool) < h]


def test_a_random_draw_is_uniform_over_the_pool_and_repeats_with_its_seed():
    angles = torch.arange(12) / 12
    documents, queries = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([[1.0, 0.0]]).expand(4000, 2)
    options = {"num_negatives": 3, "range_min": 1, "range_max": 8, "sampling_strategy": "random"}
    mined = mine_hard_negatives(queries, documents, [0] * 4000, **options)
    counts = torch.bincount(mined.indices.flatten(), minlength=12)
    assert counts[[0, 1]].tolist() == [0, 0]  # the positive, and the closest
    assert counts[9:].sum() == 0
    expectation = 4000 * 3 / 7
    assert ((counts[2:9] - expectation).abs() < 5 * math.sqrt(expectation)).all()
    again = mine_hard_negatives(queries, documents, [0] * 4000, **options)
    assert torch.equal(mined.indices, again.indices)
    other = mine_hard_negatives(queries, documents, [0] * 4000, seed=1, **options)
    assert not torch.equal(mined.indices, other.indices)


@pytest.mark.parametrize("kind", ["array", "memmap", "float16", "bfloat16", "float32", "chunked"])
def test_documents_come_in_any_form(kind, tmp_path):
    queries, documents, positives = embeddings(m=3000, d=8)
    half = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(kind)
    queries, documents = (x.to(half or torch.float32) for x in (queries, documents))
    same, options = (queries.float(), documents.float()), {"num_negatives": 5, "relative_margin": 0.05}
    if kind in ("array", "memmap"):
        np.save(tmp_path / "documents.npy", documents.numpy())
        documents = np.load(tmp_path / "documents.npy", mmap_mode="r" if kind == "memmap" else None)
        queries = queries.numpy()
    if kind == "chunked":
        options["chunk_size"] = 1
    mined = mine_hard_negatives(queries, documents, positives, **options)
    expected = mine_hard_negatives(*same, positives, num_negatives=5, relative_margin=0.05)
    assert torch.equal(mined.indices, expected.indices)
    assert torch.equal(mined.scores, expected.scores)
    assert mined.above_limits.sum() > 0


@LACKING
def test_the_score_matrix_is_never_whole(monkeypatch):
    """5,000 by 20,000 scores would take 400 MB; tiles take a few."""
    from lightning_normdyn.retrieval.search import tiles

    areas = []
    make = tiles.Tile.__init__
    monkeypatch.setattr(tiles.Tile, "__init__", lambda self, q, w: (areas.append(len(q) * w), make(self, q, w))[1])
    queries = torch.randn(5_000, 4)
    mine_hard_negatives(queries, torch.randn(20_000, 4), list(range(5_000)), relative_margin=0.1)
    assert sum(areas) <= 20_000 * 5_000 / 10


@LACKING
@pytest.mark.parametrize(
    ("options", "ranks"), [*((options, 3) for options in OPTIONS), (OPTIONS[4], 70), (OPTIONS[8], 2)], ids=str
)
def test_ranks_that_share_the_documents_find_the_same(options, ranks):
    """Ranks run one after the other here, and again once it is known what all of them hand over."""
    queries, documents, positives = embeddings()
    ids = [place % 50 for place in range(60)]
    excluded = torch.tensor([0, 1, 1]), torch.tensor([5, 6, 44])
    alone = mine_hard_negatives(
        queries, documents, positives, num_negatives=4, document_ids=ids, excluded_pairs=excluded, **options
    )
    pairs, firsts = PositivePairs.of(positives, 7, 60), first_of_equals(ids, 60)
    handed_over = []

    class WaitingError(Exception):
        pass

    for _ in range(5):
        turn = []
        for rank in range(ranks):
            mine_, places = [], range(60 * rank // ranks, 60 * (rank + 1) // ranks)

            def gather(tensor, mine_=mine_):
                mine_.append(tensor)
                if len(mine_) > len(handed_over):
                    raise WaitingError
                return handed_over[len(mine_) - 1]

            share = DocumentShare(places.start, 60, gather)
            here = documents[places.start : places.stop]
            args = (queries, here, pairs, firsts, MiningOptions(num_negatives=4, **options), NormAwareScore(), share)
            try:
                mined = mine_share(*args, excluded_pairs=excluded)
            except WaitingError:
                turn.append(mine_[-1])
        if not turn:
            break
        handed_over.append(torch.stack(turn))
    assert torch.equal(mined.indices, alone.indices)
    assert torch.equal(mined.scores, alone.scores)
    assert torch.equal(mined.above_limits, alone.above_limits)


@LACKING
def test_positives_come_in_any_form():
    queries, documents, positives = embeddings()
    table = torch.full((7, 3), -1)
    for query, places in enumerate(positives):
        table[query, : len(places)] = torch.tensor(places)
    judged = Judgements.of(
        [(query, place, 2.0) for query, places in enumerate(positives) for place in places] + [(0, 59, 0.0)]
    )
    results = [
        mine_hard_negatives(queries, documents, form, relative_margin=0.1).indices
        for form in (positives, table, table.numpy(), judged, [tuple(places) for places in positives])
    ]
    assert all(torch.equal(results[0], result) for result in results[1:])


def test_too_few_negatives_are_said_once_and_never_made_up():
    documents = torch.eye(4)
    with pytest.warns(UserWarning, match=r"^1 of 2 queries have fewer than 3 hard negatives, 0 have none; ") as record:
        mined = mine_hard_negatives(documents[:2], documents, [[0], [1, 2]])
    assert len(record) == 1
    assert record[0].filename == __file__
    assert mined.indices.tolist() == [[1, 2, 3], [0, 3, -1]]
    assert mined.counts.tolist() == [3, 2]
    assert "1 of 2 queries have fewer than 3" in str(mined)
    assert mined.triples().tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 3], [1, 1, 0], [1, 1, 3], [1, 2, 0], [1, 2, 3]]


def test_every_advice_of_a_shortage_gives_more_negatives():
    queries, documents, positives = embeddings(m=30)
    tight = {"range_min": 4, "range_max": 8, "relative_margin": 0.9, "max_score": 0.2, "min_score": 0.1}
    with pytest.warns(UserWarning, match="have none; ") as record:
        few = mine_hard_negatives(queries, documents, positives, **tight)
    words = str(record[0].message)
    looser = {"range_min": 0, "range_max": 30, "relative_margin": 0.0, "max_score": 1.0, "min_score": -1.0}
    for name in tight:
        assert f"{'raise' if 'max' in name else 'lower'} {name}" in words
    assert mine_hard_negatives(queries, documents, positives, **looser).counts.sum() > few.counts.sum()


def test_statistics_are_numpys_and_the_table_shows_them():
    queries, documents, positives = embeddings(d=12)
    mined = mine_hard_negatives(queries, documents, positives, relative_margin=0.1)
    columns = {
        "positive": mined.positive_scores.numpy(),
        "negative": mined.scores.flatten().numpy(),
        "difference": np.concatenate(
            [
                value - mined.scores[query].numpy()
                for query, value in zip(mined.positives.queries, mined.positive_scores.numpy(), strict=True)
            ]
        ),
    }
    for name, values in columns.items():
        got = mined.statistics()[name]
        quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        assert [got[key] for key in ("min", "25%", "median", "75%", "max")] == pytest.approx(list(quantiles))
        assert (got["count"], got["mean"], got["std"]) == pytest.approx(
            (len(values), values.mean(), values.std(ddof=1))
        )
        assert f"{values.mean():.4f}" in str(mined)
    closest = mine_hard_negatives(queries, documents, positives)
    share = 1 - (mined.indices.unsqueeze(2) == closest.indices.unsqueeze(1)).any(1).double().mean()
    assert mined.false_negative_share == pytest.approx(float(share))
    assert 0 < mined.false_negative_share < 1


def test_what_is_wrong_is_said():
    queries, documents, positives = embeddings()
    bad = documents.clone()
    bad[positives[3][0]] = torch.nan
    for call, said in [
        (lambda: mine_hard_negatives(queries, [documents], positives), "documents: expected a tensor, an array"),
        (lambda: mine_hard_negatives(queries, bad, positives), "documents: expected finite numbers"),
        (lambda: mine_hard_negatives(queries, bad[:, :2], [0] * 7), "documents: expected"),
        (
            lambda: mine_hard_negatives(queries * 1e300, documents * 1e300, positives, normalization="dot"),
            "documents: ",
        ),
        (
            lambda: mine_hard_negatives(queries, documents, positives[:3]),
            "positives: expected one entry for each of the 7",
        ),
        (lambda: mine_hard_negatives(queries, documents, [60] * 7), "positives: expected documents by position"),
        (lambda: mine_hard_negatives(queries, documents, "abc"), "positives: expected Judgements"),
        (
            lambda: mine_hard_negatives(queries, documents, [[]] * 7, max_score=0.3, relative_margin=0.1),
            "positives: exp",
        ),
        (
            lambda: mine_hard_negatives(queries, documents, positives, document_ids=[1]),
            "document_ids: expected one for",
        ),
        (
            lambda: mine_hard_negatives(
                queries, documents, positives, excluded_pairs=(torch.tensor([0]), torch.tensor([60]))
            ),
            "excluded_pairs: expected documents by position",
        ),
        (lambda: mine_hard_negatives(queries, documents, positives, range_max=2), "range_max: expected range_min"),
        (
            lambda: mine_hard_negatives(queries, documents, positives, max_score=0.1, min_score=0.2),
            "max_score: expected",
        ),
        (lambda: mine_hard_negatives(queries, documents, positives, sampling_strategy="tpo"), "sampling_strategy: "),
    ]:
        with pytest.raises(ValueError, match=f"^{said}"):
            call()
    assert mine_hard_negatives(queries, documents, [[]] * 7, max_score=0.3).indices.shape == (7, 3)
    assert mine_hard_negatives(queries[:0], documents, []).indices.shape == (0, 3)


def test_positives_without_an_order_are_refused_and_numbers_of_numpy_are_not():
    queries, documents, positives = embeddings()
    for unordered in ({9 + query: places for query, places in enumerate(positives)}, set(range(len(queries)))):
        with pytest.raises(ValueError, match=r"^positives: expected Judgements, a tensor of positions"):
            mine_hard_negatives(queries, documents, unordered)
    firsts = [places[0] for places in positives]
    assert torch.equal(
        mine_hard_negatives(queries, documents, list(np.array(firsts))).indices,
        mine_hard_negatives(queries, documents, firsts).indices,
    )


@LACKING
@pytest.mark.parametrize("order", ["bytes", "rows"])
def test_arrays_in_reverse_order_are_the_same_documents(order):
    queries, documents, positives = embeddings(dtype=torch.float32)
    array = documents.numpy()
    array = array.astype(">f4") if order == "bytes" else np.ascontiguousarray(array[::-1])[::-1]
    ours = mine_hard_negatives(queries.numpy()[::-1][::-1], array, positives, relative_margin=0.05)
    theirs = mine_hard_negatives(queries, documents, positives, relative_margin=0.05)
    assert torch.equal(ours.indices, theirs.indices)
    assert torch.equal(ours.positive_scores, theirs.positive_scores)


def test_names_that_do_not_reach_are_named():
    queries, documents, positives = embeddings()
    mined = mine_hard_negatives(queries, documents, positives)
    highest = int(max(mined.indices.max(), mined.positives.documents.max()))
    names = [str(place) for place in range(len(documents))]
    with pytest.raises(ValueError, match=r"^queries: expected an id or a text for each .*, 7 or more, got 6$"):
        list(mined.rows(names[:6], names))
    with pytest.raises(ValueError, match=rf"^documents: expected .*, {highest + 1} or more, got {highest}$"):
        list(mined.rows(names, names[:highest]))
    assert len(list(mined.rows(names[:7], names[: highest + 1]))) == len(mined.positives.queries)


def test_one_query_and_no_document_are_named_themselves():
    queries, documents, positives = embeddings()
    with pytest.raises(ValueError, match=r"^queries: expected \[n, d\], got \(5,\); a single one is queries\[None\]"):
        mine_hard_negatives(queries[0], documents, [0])
    with pytest.raises(ValueError, match=r"^documents: expected at least one, got none"):
        mine_hard_negatives(queries, documents[:0], positives)
