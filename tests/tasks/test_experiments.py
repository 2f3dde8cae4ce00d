"""The reproduced experiments: analyses on planted data, simulations against plain loops, small runs as a whole."""

import importlib
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.tasks.experiments import EXPERIMENTS
from lightning_normdyn.tasks.experiments.class_imbalance import _as_queries, _Classes, _order, class_imbalance
from lightning_normdyn.tasks.experiments.encoder_terms import encoder_terms, halve_texts
from lightning_normdyn.tasks.experiments.frequency_law import (
    fit_crossover,
    frequency_law,
    settled_norms,
    tangential_noise,
)
from lightning_normdyn.tasks.experiments.vocabulary_norms import unit_rows, vocabulary_norms
from lightning_normdyn.tasks.experiments.weight_decay_sweep import weight_decay_sweep

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    pytest.mark.cautions(r"_ids exclude \d+% of"),
]
SWEEP = importlib.import_module("lightning_normdyn.tasks.experiments.weight_decay_sweep")


@pytest.fixture
def text(tmp_path):
    """60 words of very different frequency, 200 paragraphs."""
    words = [a + b for a in "abcdefghij" for b in "klmnop"]
    generator = torch.Generator().manual_seed(0)
    lines = [(60 * torch.rand(40, generator=generator) ** 2).long().tolist() for _ in range(200)]
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(" ".join(words[place] for place in line) for line in lines))
    return [str(file)]


def measured(record):
    return {found.quantity: found.measured for found in record.findings}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=25)
@given(st.floats(-3, -0.5), st.floats(0.1, 10))
def test_the_crossover_of_an_exact_curve_is_found(log_place, ceiling):
    """Oracle: on the curve p/R² is linear in p, so a straight line has place = intercept/slope."""
    p = torch.logspace(-4, 0, 9, dtype=torch.float64)
    norm = ceiling * (p / (p + 10**log_place)).sqrt()
    line = torch.linalg.lstsq(torch.stack([p, torch.ones_like(p)], 1), (p / norm**2).unsqueeze(1)).solution.flatten()
    found = fit_crossover(p, norm)
    assert found.place == pytest.approx(float(line[1] / line[0]), rel=2e-3)
    assert found.ceiling == pytest.approx(ceiling, rel=2e-3)
    torch.testing.assert_close(found.norm(p), norm, rtol=2e-3, atol=0)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(0.1, 100))
def test_noise_is_tangential_and_shrinks_with_the_norm(seed, scale):
    rows = torch.randn(7, 5, generator=generator(2000)).double()  # no seed of the noise, which would repeat them
    everywhere = torch.ones(7)
    noise = tangential_noise(rows.float(), everywhere, generator(seed))
    further = tangential_noise((scale * rows).float(), everywhere, generator(seed))
    assert (noise * rows).sum(1).abs().max() < 1e-4 * noise.norm(dim=1).max() * rows.norm(dim=1).max()
    torch.testing.assert_close(further * scale, noise, rtol=1e-3, atol=1e-4)


def test_noise_comes_as_often_as_asked():
    rows, probability = torch.ones(4, 3), torch.tensor([0.0, 0.1, 0.5, 1.0])
    source = generator()
    present = torch.stack([tangential_noise(rows, probability, source).ne(0).any(1) for _ in range(4000)])
    torch.testing.assert_close(present.float().mean(0), probability, rtol=0, atol=0.03)


def test_a_walk_is_that_of_a_plain_loop():
    start, probability = torch.randn(3, 4, generator=generator(2)), torch.tensor([0.3, 0.7, 1.0])
    lr, decay, steps = 0.5, 0.01, 9
    table = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([table], lr=lr, weight_decay=decay)
    found = settled_norms(table, optimizer, probability, power=4, steps=steps, seed=5)
    x, source, fourths = start.clone(), generator(5), []
    for step in range(steps):
        g = tangential_noise(x, probability, source)
        x = x - lr * (g + decay * x)
        if step >= 4:
            fourths.append([sum(float(v) ** 2 for v in row) ** 2 for row in x])
    expected = [(sum(row[i] for row in fourths) / 5) ** 0.25 for i in range(3)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=0)


def test_the_frequency_laws_show_in_a_short_walk():
    found = measured(frequency_law(steps=2400))
    assert found["SGD: slope of log R on log p"] == pytest.approx(0.25, abs=0.02)
    assert found["SGD: median error of the law"] < 0.03
    assert found["AdamW: crossover"] == pytest.approx(0.02, rel=0.5)
    assert found["AdamW: median error of the law"] < 0.1


@pytest.mark.parametrize("exponent", [0.0, 0.2], ids=["V² constant", "V² grows with λ"])
def test_the_sweep_finds_what_was_planted(monkeypatch, text, exponent):
    """R⁴ = V²/(2λ), V² = v·λ^exponent word by word; a rare word that disobeys is left out."""
    decays = (1e-2, 3e-3, 1e-3)
    size = torch.rand(50, generator=generator()).double() + 0.1
    often = torch.ones(50, dtype=torch.float64)
    often[7] = 1e-3

    def planted(data, weight_decays, steps):
        runs = []
        for decay in weight_decays:
            moment = size * decay**exponent
            norm = (moment / (2 * decay)) ** 0.25
            norm[7] = 100.0
            runs.append(SWEEP._WindowMeans(decay, norm, moment, often))
        return runs, []

    monkeypatch.setattr(SWEEP, "_sweep", planted)
    record = weight_decay_sweep(weight_decays=decays, text=text)
    found = measured(record)
    assert found["slope of log R⁴ on log V²/λ, geometric means"] == pytest.approx(1)
    assert found["slope of log R⁴ on log V²/λ, all words"] == pytest.approx(1)
    assert found["R⁴·λ/V²"] == pytest.approx(0.5)
    assert found["slope of log R on log λ"] == pytest.approx((exponent - 1) / 4)
    assert record.finding("slope of log R on log λ").expected == pytest.approx((exponent - 1) / 4)
    assert record.settings["words"] == 49


def test_the_sweep_of_a_small_text_obeys_the_law(text):
    record = weight_decay_sweep(steps=240, weight_decays=(3e-2, 1e-2), text=text)
    found = measured(record)
    assert found["slope of log R⁴ on log V²/λ, geometric means"] == pytest.approx(1, abs=0.15)
    assert found["slope of log R⁴ on log V²/λ, all words"] == pytest.approx(1, abs=0.1)
    assert found["R⁴·λ/V²"] == pytest.approx(0.5, rel=0.1)
    assert len(record.arrays["word_norm"]) == len(record.arrays["word_predictor"]) == 2 * record.settings["words"]


def test_the_norms_of_a_small_vocabulary_are_predicted(text):
    record = vocabulary_norms(steps=1000, text=text)
    found = measured(record)
    assert found["slope, equilibrium law"] == pytest.approx(1, abs=0.2)
    assert found["Pearson r, V² from the window before"] > 0.95
    assert found["median error, equilibrium law"] < 0.1
    assert found["slope of log R on log word share"] == pytest.approx(
        record.finding("slope of log R on log word share").expected, abs=0.05
    )
    assert len(record.arrays["predicted"]) == record.settings["words"] == 60


def test_rows_start_with_norm_one():
    table = torch.randn(5, 3, generator=generator())
    directions = torch.nn.functional.normalize(table.clone(), dim=1)
    unit_rows(table)
    torch.testing.assert_close(table, directions)


def test_halves_are_sums_of_word_vectors():
    documents = [[0, 1, 2, 2, 1], [3, 3, 0, 1], [1]]
    halves = halve_texts(documents, 4, dim=6, seed=3, least_words=4)
    words = torch.randn(4, 6, generator=generator(3)).double()
    for row, (first, second) in enumerate([([0, 1, 2], [2, 1]), ([3, 3], [0, 1])]):
        for side, ids in ((halves.first, first), (halves.second, second)):
            total = sum(words[i] for i in ids)
            torch.testing.assert_close(
                side[row].double(), total / math.sqrt(float(total @ total)), rtol=1e-5, atol=1e-6
            )
    torch.testing.assert_close(halves.draw(5, generator(1)).norm(dim=-1), torch.ones(2, 5))


def test_too_few_long_documents_are_refused():
    with pytest.raises(ValueError, match="text: expected two or more documents of at least 8 words, got 1"):
        halve_texts([[0] * 8, [0] * 7], 1, dim=4, seed=0)


def test_the_terms_of_an_encoder_are_sorted_and_balance(text):
    record = encoder_terms(steps=400, text=text)
    arrays = {name: torch.tensor(values, dtype=torch.float64) for name, values in record.arrays.items()}
    assert bool((arrays["mean_norm"].diff() >= 0).all())
    assert bool((arrays["second_moment"] > 0).all())
    r2, lr = arrays["equilibrium_norm"].square(), 0.3
    left = arrays["radial_decay"] * r2.square()
    right = arrays["drift"] * r2 + lr * arrays["second_moment"] / 2
    # Both sides are small differences of large terms.
    assert float(((left - right).abs() / (lr * arrays["second_moment"] / 2)).max()) < 0.02
    assert measured(record)["Pearson r, terms of the window before"] > 0.5


def test_classes_are_imprinted_by_frequency():
    record = class_imbalance(steps=1500, encoder_steps=100)
    found = measured(record)
    for weight in (2, 4, 8):
        assert found[f"queries: R of weight {weight} / R of weight 1"] == pytest.approx(weight**0.25, rel=0.06)
    softmax = record.finding("softmax head: R of weight 8 / R of weight 1")
    assert softmax.measured == pytest.approx(softmax.expected, rel=0.05)
    assert softmax.measured < 1.4


def test_a_drawn_prototype_is_scored_against_a_document_of_every_class():
    directions, drawn = torch.randn(4, 16, generator=generator()), torch.tensor([2, 0, 3])
    logits = _as_queries(_Classes(0), directions, drawn)
    same = _Classes(0)
    documents = same.near(same.centres.expand(3, -1, -1))
    for place, chosen in enumerate((2, 0, 3)):
        for other in range(4):
            expected = sum(float(a * b) for a, b in zip(directions[chosen], documents[place, other], strict=True))
            assert float(logits[place, other]) == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(same.centres @ same.centres.T, torch.eye(4), rtol=0, atol=1e-5)


@given(st.permutations(range(4)))
def test_order_is_spearmans(places):
    """Oracle: 1 − 6Σd²/(n(n² − 1))."""
    squares = sum((place - index) ** 2 for index, place in enumerate(places))
    assert _order(torch.tensor(places, dtype=torch.float64).exp()) == pytest.approx(1 - squares / 10)


def test_a_seed_decides_and_the_global_stream_is_left_alone():
    before = torch.random.get_rng_state()
    first, again, other = (class_imbalance(steps=20, encoder_steps=10, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.arrays == again.arrays
    assert first.arrays["queries"] != other.arrays["queries"]


def test_the_table_of_experiments_names_them_as_they_name_themselves():
    for name in ("frequency_law", "class_imbalance"):
        steps = dict.fromkeys(EXPERIMENTS[name].quick, 20)
        assert EXPERIMENTS[name].run(**steps).name == name
