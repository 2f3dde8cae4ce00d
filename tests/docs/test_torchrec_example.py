"""The example that trains MovieLens under TorchRec on two processes runs, and prints what its page says."""

from __future__ import annotations

import re
import runpy

import pytest
from code_blocks import DOCS, ROOT
from rank_starter import run_ranks

EXAMPLE = DOCS / "examples/torchrec_movielens.py"
RATINGS = ROOT / "../shared/data/ml_latest_small/ratings.tsv.gz"
LINE = re.compile(
    r"^(user|film): median norm ([\d.]+) -> ([\d.]+), spread (\d+)%, (\d+) rows never met, .* to (\S+)$", re.M
)


@pytest.mark.slow
@pytest.mark.skipif(not RATINGS.exists(), reason="needs ../shared/data")
def test_movielens_trains_under_torchrec():
    pytest.importorskip("torchrec", exc_type=ImportError)
    first, _ = run_ranks(EXAMPLE, RATINGS)
    tables = {table: list(map(float, numbers)) for table, *numbers in LINE.findall(first)}
    assert list(tables) == ["user", "film"]
    for start, end, spread, unmet_rows, error in tables.values():
        assert end > 1.5 * start
        assert spread > 10
        assert unmet_rows == 0  # each user and film has a rating
        assert error < 1e-4


def test_the_gallery_shows_the_example_and_does_not_run_it():
    pytest.importorskip("sphinx_gallery", reason="the documentation is built on Python 3.11 and later")
    pattern = runpy.run_path(str(DOCS / "_ext/gallery_state.py"))["pattern"]()
    assert not re.search(pattern, str(EXAMPLE))
    assert re.search(pattern, str(EXAMPLE.with_name("plot_05_forecast.py")))
