import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def search(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.syspath_prepend(str(FOLDER))
    import search

    yield search
    for name in ("search", "loss_peers", "loss_worker", "overhead_table"):
        sys.modules.pop(name, None)


def test_both_sides_find_the_same_and_the_table_names_the_targets(search):
    size = search.Size(3000, 10, 8)
    (found,) = search.measure(size, 1)
    assert set(found["agreement"].values()) == {0.0}
    report = {
        "date": "2026-11-21",
        "machine": {"cpu": "a", "cores": 2, "python": "3", "torch": "2"},
        "faiss": "1",
        "threads": 1,
        "quick": True,
        "size": list(size),
        "load": {"start": 0.1, "end": 0.2},
    }
    text = search.tabulate(report | found)
    assert all(f"| {title} |" in text for title in search.RATIOS)
    assert "3,000 documents x 8, 10 queries" in text


@pytest.mark.parametrize(("others", "verdict"), [(0.0, "**missed** |"), (0.9, "met, by processor time |")])
def test_a_disturbed_target_is_judged_by_processor_time(search, others, verdict):
    turns = {
        "a": [{"wall": 3.0, "cpu": 1.1, "others": others}, {"wall": 2.0, "cpu": 1.1, "others": 0.0}],
        "b": [{"wall": 1.0, "cpu": 1.0, "others": 0.0}] * 2,
    }
    found = search.ratio(turns, "a", "b", 1.2)
    assert found["wall"] == 2.5
    assert found["cpu"] == 1.1
    title = next(iter(search.RATIOS))
    report = {
        "date": "",
        "machine": dict.fromkeys(("cpu", "cores", "python", "torch"), ""),
        "faiss": "",
        "threads": 1,
        "quick": False,
        "size": (1, 1, 1),
        "load": {"start": 0, "end": 0},
        "rounds": 2,
        "medians": {},
        "ratios": {title: found},
        "agreement": {},
    }
    assert verdict in search.tabulate(report)
