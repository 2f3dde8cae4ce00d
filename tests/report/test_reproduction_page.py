"""The page of experiments: every figure, every number, nothing loaded from elsewhere."""

import re

import numpy as np
import pytest

from lightning_normdyn.history.experiment import ExperimentRecord, Finding
from lightning_normdyn.report.experiments import write_reproduction
from lightning_normdyn.report.experiments.encoder_terms import _running_median
from lightning_normdyn.report.experiments.log_plot import middle

RISING = np.geomspace(0.5, 3.0, 17).tolist()
ARRAYS = {
    "weight_decay_sweep": ("weight_decay", "norm", "predictor", "word_weight_decay", "word_norm", "word_predictor"),
    "vocabulary_norms": ("predicted", "observed", "share", "update_probability"),
    "frequency_law": ("frequency", "settled", "sgd", "sgd_law", "adamw", "adamw_law", "adamw_fit"),
    "encoder_terms": ("mean_norm", "second_moment", "drift"),
    "class_imbalance": ("weight", "queries", "queries_law", "softmax", "softmax_law", "encoder"),
}
FIGURES = {
    "weight_decay_sweep": ("Geometric mean norm against weight decay", "R⁴ against V²/λ of every word"),
    "vocabulary_norms": ("Observed against predicted norm", "word's share of the corpus"),
    "frequency_law": ("Norm against frequency under SGD", "Norm against frequency under AdamW"),
    "encoder_terms": ("V² of probe documents", "D of probe documents"),
    "class_imbalance": ("Norm against class weight, relative",),
}


def planted(name, **changed):
    findings = (
        Finding(f"first of {name}", 0.88, "SRV Fig. 3a", 0.8765),
        Finding("r <of> it", 0.97, "SRV Fig. 3a", None),
        Finding("bend", None, "own derivation", 0.012),
    )
    arrays = dict.fromkeys(ARRAYS[name], RISING)
    return ExperimentRecord(name, findings, arrays | changed, {"lr": 1.0, "steps": 1200}, 2.0)


def write(tmp_path, records, **options):
    return write_reproduction(tmp_path / "page.html", records, **options).read_text(encoding="utf-8")


def test_the_page_holds_every_figure_and_every_number(tmp_path):
    page = write(tmp_path, [planted(name) for name in ARRAYS], facts={"seed": 3, "torch": "<2>"})
    for name, figures in FIGURES.items():
        assert f'<section id="{name}">' in page
        assert f"first of {name}" in page
        for figure in figures:
            assert re.search(rf'<svg [^>]*aria-label="[^"]*{re.escape(figure)}', page), figure
    assert page.count("<svg") == sum(map(len, FIGURES.values()))
    assert page.count("<td>0.88</td>") == page.count("<td>0.97</td>") == 5
    assert page.count('<td class="main">0.8765</td>') == 5
    assert "r &lt;of&gt; it" in page
    assert "seed 3 · torch &lt;2&gt;" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_page_loads_nothing(tmp_path):
    page = write(tmp_path, [planted(name) for name in ARRAYS])
    assert set(re.findall(r'https?://[^"<\s]+', page)) == {"https://arxiv.org/abs/2606.30625"}
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_a_few_experiments_make_a_page_too(tmp_path):
    page = write(tmp_path, [planted("frequency_law")])
    assert page.count("<section") == 1


def test_drift_may_be_negative_and_no_row_settled(tmp_path):
    records = [planted("encoder_terms", drift=[-x for x in RISING]), planted("frequency_law", settled=[0.0] * 17)]
    assert write(tmp_path, records).count("<svg") == 4


def test_an_unknown_experiment_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"records: expected experiments among .*, got walk"):
        write(tmp_path, [ExperimentRecord("walk", (), {})])


def test_a_running_median_is_that_of_a_loop():
    values = np.random.default_rng(0).normal(size=80)
    expected = [sorted(values[max(0, i - 5) : i + 6]) for i in range(80)]
    expected = [(part[(len(part) - 1) // 2] + part[len(part) // 2]) / 2 for part in expected]
    np.testing.assert_allclose(_running_median(values), expected)


def test_the_middle_is_the_geometric_mean():
    assert middle(np.array([1.0, 2.0, 4.0])) == pytest.approx(2.0)
