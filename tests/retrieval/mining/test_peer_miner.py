"""sentence-transformers' miner, if it is installed, finds the same triples where options mean the same."""

import contextlib
import io

import pytest
import torch

from lightning_normdyn.retrieval import mine_hard_negatives

N, M, D = 12, 90, 8
OPTIONS = [
    {},
    {"relative_margin": 0.05},
    {"absolute_margin": 0.1},
    {"max_score": 0.5},
    {"min_score": 0.2},
    {"range_min": 3},
    {"range_min": 3, "relative_margin": 0.1, "max_score": 0.6},
    {"range_max": 10},
    {"range_min": 2, "range_max": 12, "relative_margin": 0.2},
]


class Encoder:
    """As much of a SentenceTransformer as their miner asks for, with an embedding by text."""

    device = "cpu"

    def __init__(self, embeddings):
        self.embeddings = embeddings

    def encode_query(self, texts, **options):
        return torch.stack([self.embeddings[text] for text in texts]).numpy()

    encode_document = encode_query

    def similarity(self, queries, documents):
        return torch.as_tensor(queries) @ torch.as_tensor(documents).T

    def similarity_pairwise(self, queries, documents):
        return (torch.as_tensor(queries) * torch.as_tensor(documents)).sum(-1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("most_positives", [1, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_triples_are_those_of_sentence_transformers(options, most_positives):
    peer = pytest.importorskip("sentence_transformers.util")
    datasets = pytest.importorskip("datasets")
    if most_positives > 1 and len(options) == 3 and "range_max" in options:
        pytest.skip("their range counts the most positives of any query twice beside a margin")
    found = 0
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        sides = [torch.randn(rows, D, generator=generator, dtype=torch.float64) for rows in (N, M)]
        documents = torch.nn.functional.normalize(sides[1], dim=1)
        positives = [
            torch.randperm(M, generator=generator)[: 1 + (query + seed) % most_positives].tolist() for query in range(N)
        ]
        queries = torch.stack([documents[places].mean(0) for places in positives]) + 0.25 * sides[0]
        queries = torch.nn.functional.normalize(queries, dim=1)
        embeddings = {f"q{n}": row for n, row in enumerate(queries)} | {f"d{n}": row for n, row in enumerate(documents)}
        pairs = [(f"q{query}", f"d{place}") for query, places in enumerate(positives) for place in places]
        table = datasets.Dataset.from_dict(dict(zip(("anchor", "positive"), zip(*pairs, strict=True), strict=True)))
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            theirs = peer.mine_hard_negatives(
                table,
                Encoder(embeddings),
                corpus=[f"d{n}" for n in range(M)],
                output_scores=True,
                verbose=False,
                **{"range_max": M} | options,  # theirs looks at a few by default, ours at all
            )
        mined = mine_hard_negatives(queries, documents, positives, **options)
        ours = sorted((f"q{query}", f"d{place}", f"d{negative}") for query, place, negative in mined.triples().tolist())
        assert sorted(zip(theirs["anchor"], theirs["positive"], theirs["negative"], strict=True)) == ours
        found += len(ours)
        scores = torch.tensor(theirs["scores"], dtype=torch.float64)
        assert float(scores[:, 1].mean()) == pytest.approx(
            float((mined.scores[mined.positives.queries])[mined.indices[mined.positives.queries] >= 0].mean()),
            abs=1e-12,
        )
    assert found > 100
