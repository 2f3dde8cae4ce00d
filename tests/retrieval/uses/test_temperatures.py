"""Calibration errors against loops; temperatures that were planted are found, and help where norms matter alone."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core.statistics.risk_coverage import expected_calibration_error
from lightning_normdyn.retrieval.uses.expected_calibration import NormTemperature, compare_temperatures, fit_temperature


def by_bins(confidence, correct, bins):
    total = 0.0
    for at in range(bins):
        inside = [
            (c, r)
            for c, r in zip(confidence, correct, strict=True)
            if at / bins < c <= (at + 1) / bins or (at == 0 and c == 0)
        ]
        if inside:
            total += abs(sum(r for _, r in inside) - sum(c for c, _ in inside))
    return total / len(confidence)


@settings(derandomize=True, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30), st.integers(1, 20))
def test_the_error_is_that_of_a_loop_over_bins(items, bins):
    # Away from edges, where the last bit of a product decides.
    items = [(min(c, 0.999) * 0.997 + 0.0011, r) for c, r in items]
    items = [(c, r) for c, r in items if abs(c * bins - round(c * bins)) > 1e-9] or [(0.5011, True)]
    confidence, correct = (list(column) for column in zip(*items, strict=True))
    found = expected_calibration_error(torch.tensor(confidence, dtype=torch.float64), torch.tensor(correct), bins=bins)
    assert float(found) == pytest.approx(by_bins(confidence, correct, bins), abs=1e-12)


def test_resamples_count_as_if_written_out():
    draw = torch.Generator().manual_seed(0)
    confidence, correct = torch.rand(30, generator=draw), torch.rand(30, generator=draw) < 0.5
    drawn = torch.randint(30, (30,), generator=draw)
    counts = torch.bincount(drawn, minlength=30).unsqueeze(0)
    assert float(expected_calibration_error(confidence, correct, counts)) == pytest.approx(
        float(expected_calibration_error(confidence[drawn], correct[drawn]))
    )
    assert float(expected_calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([False, True]))) == 0


def world(slope, n=6000, seed=1):
    """Labels by logits over a temperature that follows the norm."""
    draw = torch.Generator().manual_seed(seed)
    norms = (0.5 * torch.randn(n, generator=draw)).exp()
    logits = 3 * torch.randn(n, 6, generator=draw)
    truth = logits / (math.exp(0.4) * norms.pow(slope)).unsqueeze(1)
    return logits, truth.softmax(1).multinomial(1, generator=draw).squeeze(1), norms


def test_a_planted_temperature_is_found():
    found = fit_temperature(*world(0.8))
    assert found == pytest.approx((0.4, 0.8), abs=0.07)
    single = fit_temperature(*world(0.0), norm_dependent=False)
    assert single.slope == 0
    assert single.constant == pytest.approx(0.4, abs=0.05)


def test_the_fit_is_the_lowest_point():
    logits, labels, norms = world(0.5, n=500)

    def loss(temperature):
        return float(torch.nn.functional.cross_entropy(temperature(logits, norms), labels))

    found = fit_temperature(logits, labels, norms)
    for constant, slope in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02)):
        assert loss(NormTemperature(found.constant + constant, found.slope + slope)) > loss(found)


def test_a_temperature_by_norm_helps_where_norms_matter_and_not_elsewhere():
    helped = compare_temperatures(*world(0.8), resamples=200)
    assert helped.nll_gain.low > 0
    assert helped.ece_gain.high > 0
    assert helped.ece[2].value < helped.ece[1].value < helped.ece[0].value
    assert helped.test_items == 3000
    useless = compare_temperatures(*world(0.0), resamples=200)
    assert useless.nll_gain.low < 0.001
    assert abs(useless.nll_gain.value) < 0.001
    assert useless.ece[1].value < useless.ece[0].value


def test_rows_add_up():
    found = compare_temperatures(*world(0.3, n=400), resamples=50)
    assert found.nll_gain.value == pytest.approx(found.nll[1].value - found.nll[2].value)
    assert found.ece_gain.value == pytest.approx(found.ece[1].value - found.ece[2].value)
    assert found == compare_temperatures(*world(0.3, n=400), resamples=50)


@pytest.mark.parametrize(
    ("logits", "labels", "norms", "message"),
    [
        (torch.ones(3, 2), torch.tensor([0, 1]), torch.ones(3), "expected \\[n, classes\\]"),
        (torch.ones(2, 2), torch.tensor([0, 2]), torch.ones(2), "labels: expected classes from 0 to 1"),
        (torch.ones(2, 2) * math.nan, torch.tensor([0, 1]), torch.ones(2), "finite"),
        (torch.ones(2, 2), torch.tensor([0, 1]), torch.ones(2), "four items"),
    ],
)
def test_what_has_no_temperature_is_refused(logits, labels, norms, message):
    with pytest.raises(ValueError, match=message):
        compare_temperatures(logits, labels, norms)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32])
def test_labels_may_be_integers_of_any_kind(dtype):
    logits, labels, norms = world(0.3, n=80)
    logits, labels = logits[:, :2], labels % 2
    assert compare_temperatures(logits, labels.to(dtype), norms, resamples=9) == (
        compare_temperatures(logits, labels, norms, resamples=9)
    )
    assert fit_temperature(logits, labels.to(dtype), norms) == fit_temperature(logits, labels, norms)


def test_a_confidence_is_a_probability():
    with pytest.raises(ValueError, match="probabilities"):
        expected_calibration_error(torch.tensor([1.5]), torch.tensor([True]))
    with pytest.raises(ValueError, match="one number for each item"):
        expected_calibration_error(torch.ones(2), torch.ones(1))


def test_temperatures_are_fitted_inside_a_validation_step():
    draw = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        norms, logits = torch.rand(200, generator=draw).double() + 0.5, torch.randn(200, 3, generator=draw).double()
        labels = logits.argmax(1)
        inside = fit_temperature(logits, labels, norms)
    assert inside == fit_temperature(logits.clone(), labels.clone(), norms.clone())


@pytest.mark.parametrize("seed", [39, 53, 73])
def test_logits_that_say_nothing_have_a_temperature_all_the_same(seed):
    """Likelihood grows there as the temperature does, without end; float64 has none for e^1000."""
    torch.manual_seed(seed)
    logits, labels, norms = torch.randn(20, 3), torch.randint(3, (20,)), torch.rand(20) + 0.1
    comparison = compare_temperatures(logits, labels, norms, resamples=50)
    ends = [end for interval in (*comparison.ece, *comparison.nll) for end in interval]
    assert all(map(math.isfinite, ends))
    fitted = fit_temperature(logits, labels, norms)(logits, norms)
    likelihood = torch.nn.functional.cross_entropy(fitted, labels)
    assert likelihood <= torch.nn.functional.cross_entropy(logits, labels)
    assert likelihood <= math.log(3) + 1e-9
