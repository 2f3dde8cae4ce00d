"""The metrics give what the functions give, however the items arrive, and are logged as they are named."""

from __future__ import annotations

import pickle
import warnings

import matplotlib
import pytest
import torch
from metric_inputs import ITEMS, batches, validation_set
from pytorch_lightning import LightningModule, Trainer
from torch import nn

from lightning_normdyn.core import (
    NORMALIZATIONS,
    coefficient_of_variation,
    cohens_d,
    fisher_condition_number,
    norm_correlations,
    recommend_normalization,
)
from lightning_normdyn.metrics import (
    CoefficientOfVariation,
    CohensD,
    FisherConditionNumber,
    NormCorrelations,
    norm_diagnostics,
)

KINDS = {
    "effect size": (CohensD, ("documents", "irrelevant")),
    "variation": (CoefficientOfVariation, ("queries",)),
    "Fisher": (lambda: FisherConditionNumber(temperature=1.0), ("queries", "documents")),
    "correlation": (lambda: NormCorrelations("frequency", resamples=50), ("documents", "length", "frequency")),
}


def by_functions():
    """Every value under its key, from the functions of the core over the whole set at once."""
    x = validation_set()
    norms = {name: x[name].norm(dim=1) for name in ("queries", "documents", "irrelevant")}
    found = {"cohens_d": float(cohens_d(norms["documents"], norms["irrelevant"]))}
    found["query_norm_cv"] = float(coefficient_of_variation(norms["queries"]))
    pair = (x["queries"], x["documents"])
    for name, exponents in NORMALIZATIONS.items():
        found[f"fisher_{name}"] = fisher_condition_number(*pair, *exponents, temperature=1.0).diagonal
    found["fisher_qnorm_share"] = recommend_normalization(*pair, temperature=1.0).qnorm_share
    for name, one in norm_correlations(norms["documents"], x["length"], {"frequency": x["frequency"]}).items():
        whole, partial = f"correlation_{name}", f"partial_{name}"
        found |= {whole: one.r, f"{whole}_low": one.interval.low, f"{whole}_high": one.interval.high}
        found |= {
            partial: one.partial_r,
            f"{partial}_low": one.partial_interval.low,
            f"{partial}_high": one.partial_interval.high,
        }
    return {f"normdyn/validation/{name}": value for name, value in found.items()}


def filled(name, size=16):
    make, wanted = KINDS[name]
    metric = make()
    for batch in batches(1, 0, size):
        metric.update(**{key: batch[key] for key in wanted})
    return metric


def plain(found):
    return {name: float(value) for name, value in found.items()} if isinstance(found, dict) else float(found)


def test_the_collection_gives_what_the_functions_give():
    diagnostics = norm_diagnostics("frequency", temperature=1.0)
    for batch in batches(1, 0):
        diagnostics.update(**batch)
    assert plain(diagnostics.compute()) == pytest.approx(by_functions(), rel=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_any_batches_give_the_same(name):
    assert plain(filled(name, 7).compute()) == pytest.approx(plain(filled(name, ITEMS).compute()), rel=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_calling_a_metric_gives_the_batch_and_keeps_the_whole(name):
    make, wanted = KINDS[name]
    metric = make()
    for batch in batches(1, 0, 45):
        inputs = {key: batch[key] for key in wanted}
        alone = make()
        alone.update(**inputs)
        assert plain(metric(**inputs)) == pytest.approx(plain(alone.compute()), rel=1e-9)
    assert plain(metric.compute()) == pytest.approx(plain(filled(name).compute()), rel=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_metrics_are_copied_saved_and_reset(name):
    metric = filled(name)
    expected = plain(metric.compute())
    assert plain(pickle.loads(pickle.dumps(metric)).compute()) == expected
    metric.persistent(True)
    other = KINDS[name][0]()
    other.persistent(True)
    other.load_state_dict(metric.state_dict())
    other._update_count = 1
    assert plain(other.compute()) == pytest.approx(expected, rel=1e-12)
    metric.half()  # as Trainer(precision="16-true") does: state keeps its precision
    metric.reset()
    for batch in batches(1, 0):
        metric.update(**{key: batch[key] for key in KINDS[name][1]})
    assert plain(metric.compute()) == expected


@pytest.mark.parametrize("name", KINDS)
def test_metrics_without_items_are_nan_and_break_nothing(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics says that nothing was updated
        found = KINDS[name][0]().compute()
    values = found.values() if isinstance(found, dict) else [found]
    assert all(value.isnan() for value in values)


@pytest.mark.parametrize("name", KINDS)
def test_metrics_draw_themselves(name):
    matplotlib.use("agg")
    metric = filled(name)
    found = metric.compute()
    figure, axes = metric.plot()
    assert figure is not None
    assert axes.get_lines()
    assert metric.plot([found, found], axes)[1] is axes
    matplotlib.pyplot.close("all")


def test_intervals_are_drawn_around_their_correlations():
    matplotlib.use("agg")
    metric = filled("correlation")
    found, (_, axes) = metric.compute(), metric.plot()
    names = [label.get_text() for label in axes.get_legend().get_texts()]
    assert names == ["correlation_frequency", "partial_frequency", "correlation_length", "partial_length"]
    bars = [line.get_ydata() for line in axes.get_lines() if len(line.get_ydata()) == 2]
    for name, (low, high) in zip(names, bars, strict=True):
        assert (low, high) == (float(found[f"{name}_low"]), float(found[f"{name}_high"]))
    matplotlib.pyplot.close("all")


def test_large_numbers_keep_their_order():
    """Seconds since 1970 are all alike in float32."""
    metric = NormCorrelations("time", resamples=0)
    time = 1_700_000_000 + torch.arange(30)
    metric.update(torch.diag(torch.arange(1.0, 31)), length=torch.arange(30) % 4, time=time)
    assert float(metric.compute()["correlation_time"]) == pytest.approx(1, abs=1e-12)


def test_no_more_pairs_are_kept_than_are_looked_at():
    metric = FisherConditionNumber(pairs=20)
    for batch in batches(1, 0, 8):
        metric.update(batch["queries"], batch["documents"])
    x = validation_set()
    expected = fisher_condition_number(x["queries"][:20], x["documents"][:20], *NORMALIZATIONS["qnorm"])
    assert sum(part.numel() for part in metric.queries) == 20 * 6
    assert float(metric.compute()["fisher_qnorm"]) == pytest.approx(expected.diagonal, rel=1e-9)


class Encoder(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6, bias=False)
        self.diagnostics = norm_diagnostics("frequency", temperature=1.0)

    def validation_step(self, batch, batch_idx):
        self.diagnostics.update(**batch)

    def on_validation_epoch_end(self):
        self.log_dict(self.diagnostics.compute())
        self.diagnostics.reset()

    def val_dataloader(self):
        return torch.utils.data.DataLoader(list(batches(1, 0)), batch_size=None)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")
def test_a_lightning_module_logs_them_by_their_keys():
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    encoder = Encoder()
    for _ in range(2):  # the second time shows that nothing was left from the first
        (logged,) = trainer.validate(encoder, verbose=False)
        assert logged == pytest.approx(by_functions(), rel=1e-6)


FEWER = (torch.ones(3, 2), torch.ones(2, 2))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: FisherConditionNumber(form="trace"), "form: expected one of .* got 'trace'"),
        (
            lambda: FisherConditionNumber().update(*FEWER),
            r"documents: expected \[m >= n, d\]",
        ),
        (lambda: NormCorrelations("length"), r"covariates: expected names other than \['length'\]"),
        (lambda: NormCorrelations("depth").update(torch.ones(3, 2), length=torch.ones(3)), "depth: .* got nothing"),
        (lambda: NormCorrelations().update(torch.ones(3, 2), length=torch.ones(2)), r"length: .* got \(2,\)"),
    ],
)
def test_what_does_not_fit_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
