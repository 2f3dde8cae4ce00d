"""Shared by the command-line tests: a small corpus on disk and a quiet place to run in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

THIRD_PARTY_NOISE = [
    # pytorch_lightning 2.6 under torch 2.10 or later
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
]


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for noise in THIRD_PARTY_NOISE:
                item.add_marker(pytest.mark.filterwarnings(noise))


@pytest.fixture
def text(tmp_path):
    words = [a + b for a in "abcdefghij" for b in "klmnop"]
    generator = torch.Generator().manual_seed(0)
    file = tmp_path / "text.txt"
    # Squaring makes some words common and some rare.
    places = [(60 * torch.rand(40, generator=generator) ** 2).long() for _ in range(100)]
    file.write_text("\n\n".join(" ".join(words[place] for place in line) for line in places))
    return str(file)


@pytest.fixture
def undrawable(monkeypatch):
    """Every figure fails as one does under a matplotlib that does not fit; returns what is said of it."""

    def crash(*args, **kwargs):
        raise AttributeError("no such method")

    monkeypatch.setattr("matplotlib.figure.Figure.add_axes", crash)
    return "drawing failed (AttributeError: no such method)"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # pytorch_lightning 2.6 calls what 4.40 deprecated
    with torch.random.fork_rng():
        yield
