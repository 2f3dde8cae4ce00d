"""Real samples, where they lie beside the checkout, have the numbers that their publishers state."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from lightning_normdyn.datasets.formats import (
    read_beir,
    read_image_text,
    read_labelled_texts,
    read_movielens,
    read_omniglot,
    read_sts,
    read_triples,
)

DATA = Path(__file__).resolve().parents[3] / "../shared/data"


def folder(name):
    path = DATA / name
    if not path.is_dir():
        pytest.skip(f"{name} is not there")
    return path


@pytest.mark.parametrize("cached", [False, True])
def test_scifact(tmp_path, cached):
    found = read_beir(folder("scifact"), cache=tmp_path if cached else None)
    assert len(found.documents) == len(found.documents.texts) == 5183
    counts = {split: (len(set(one.queries.tolist())), len(one.queries)) for split, one in found.judgements.items()}
    assert counts == {"train": (809, 919), "test": (300, 339)}


def test_umls():
    graph = read_triples(folder("kg_umls"))
    assert (len(graph.entities), len(graph.relations)) == (135, 46)
    assert {split: len(facts) for split, facts in graph.triples.items()} == {
        "train": 5216,
        "validation": 652,
        "test": 661,
    }


def test_wn18rr():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = read_triples(folder("kg_wn18rr"))
    # 210 facts of each evaluation split: a known property.
    assert [str(one.message).split(": ")[1][:3] for one in caught] == ["420"]
    assert (len(graph.entities), len(graph.relations)) == (40943, 11)
    assert {split: len(facts) for split, facts in graph.triples.items()} == {
        "train": 86835,
        "validation": 3034,
        "test": 3134,
    }


def test_ml_latest_small():
    found = read_movielens(folder("ml_latest_small"))
    assert (len(found.ratings), len(found.user_ids), len(found.item_ids)) == (100836, 610, 9724)
    assert found.item_texts[found.item_ids.index("1")] == "Toy Story (1995)"
    assert (found.users.diff() >= 0).all()


def test_omniglot_background():
    found = read_omniglot(folder("omniglot_background"))
    assert found.images.shape == (19280, 1, 28, 28)
    assert (len(found.classes), len(set(found.groups))) == (964, 30)
    assert found.labels.bincount().tolist() == [20] * 964
    assert 0.05 < (found.images > 0).float().mean() < 0.2


def test_emoji_noto():
    found = read_image_text(folder("emoji_noto") / "emoji.parquet", image_column="png32", group_column="base")
    assert (len(found), len(set(found.groups))) == (3414, 1644)
    assert found.images[0].size == (32, 32)


def test_banking77():
    found = read_labelled_texts(folder("banking77"))
    assert {split: len(one) for split, one in found.items()} == {"train": 10003, "test": 3080}
    assert len(found["train"].classes) == 77


def test_sts_benchmark():
    found = read_sts(folder("sts_benchmark"))
    assert {split: len(one) for split, one in found.items()} == {"train": 5749, "validation": 1500, "test": 1379}
    assert (found["test"].grades.min(), found["test"].grades.max()) == (0, 5)
