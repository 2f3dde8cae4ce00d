"""The study of a fine-tuned encoder: cached layers give the encoder's embeddings, and choices are extended once."""

import math
import sys
from pathlib import Path

import pytest
import torch
from small_transformers import write_bert

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import finetune_minilm as study
import finetune_sets as sets

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.tasks.encoders import PretrainedTextEncoder

WORDS = ["a", "file", "is", "open", "the", "red", "door"]
TEXTS = ["the file is open", "a", "the red door is a file", "open door", "red red red"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    folder = write_bert(tmp_path_factory.mktemp("bert"), WORDS, num_hidden_layers=3, initializer_range=0.5)
    return PretrainedTextEncoder(str(folder)).eval()


@pytest.mark.parametrize("below", [0, 2])
def test_layers_on_cached_tokens_give_the_embeddings_of_the_encoder(encoder, below, tmp_path):
    texts = sets.encode(TEXTS, encoder, below, tmp_path / "texts.pt")
    assert torch.equal(sets.encode(TEXTS, encoder, below, tmp_path / "texts.pt").tokens, texts.tokens)
    places = torch.tensor([3, 0, 2, 4, 1])
    with torch.no_grad():
        expected = encoder.encode([TEXTS[place] for place in places])
        embedded = study.UpperLayers(encoder, below, texts).embed(places)
    torch.testing.assert_close(texts.features[places], expected, rtol=0.03, atol=0.03)  # bfloat16
    torch.testing.assert_close(embedded, expected, rtol=0.03, atol=0.03)
    assert not torch.allclose(embedded.roll(1, 0), expected, rtol=0.03, atol=0.03)


def test_a_thinned_split_keeps_judgements_of_what_is_there(monkeypatch):
    monkeypatch.setattr(sets, "MOST", (2, 3))
    pairs = [(query, document, 1.0) for query in range(3) for document in (query, query + 4)]
    split = sets.Split(torch.arange(10, 13), torch.arange(20, 29), Judgements.of(pairs)).thinned()
    assert (split.queries.tolist(), split.documents.tolist()) == ([10, 12], [20, 24, 28])
    assert list(zip(*(column.tolist() for column in split.judgements[:2]), strict=True)) == [(0, 0), (0, 1)]


@pytest.mark.parametrize(
    ("peak", "tried", "at_edge"), [(0.1, 3, False), (0.2, 4, False), (0.4, 4, True), (0.01, 4, True)]
)
def test_a_list_of_temperatures_is_extended_once(peak, tried, at_edge):
    """Validation falls away from a peak, in powers of two."""

    class Runs:
        study = study.STUDIES["heads/scifact"]._replace(temperatures=(0.05, 0.1, 0.2), rates=(1.0,))

        def validation(self, variant, temperature, lr):
            return -abs(math.log2(temperature / 3 / peak))

    choice = study.best(Runs(), "qnorm", 3.0)
    assert (len(choice["validation"]), choice["at_edge"]) == (tried, at_edge)
    assert choice["of_cosine"] == pytest.approx(min(max(peak, 0.025), 0.4))


def test_the_visible_gain_is_that_of_a_paired_test():
    generator = torch.Generator().manual_seed(0)
    cosine = torch.rand(3, 400, generator=generator, dtype=torch.float64)
    gaps = 0.1 * torch.randn(3, 400, generator=generator, dtype=torch.float64)
    records = {
        name: [{"test": {"trained": row.tolist()}} for row in table]
        for name, table in {"cosine": cosine, "dot": cosine + gaps}.items()
    }
    of_queries, of_seeds = gaps.mean(0).tolist(), gaps.mean(1).tolist()

    def squared_error(values):
        mean = sum(values) / len(values)
        return sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)

    expected = 2.8 * math.sqrt(squared_error(of_queries) + squared_error(of_seeds))
    assert study.compared(records, "test", "trained")["visible"]["dot"] == pytest.approx(expected)
