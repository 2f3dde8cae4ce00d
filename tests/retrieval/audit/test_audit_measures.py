"""What an audit measures, each number against a loop, a library or a surface that was built by hand."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core import cohens_d
from lightning_normdyn.retrieval.audit.groups import difference, group_norms
from lightning_normdyn.retrieval.audit.saturation import LastLayer, NormWeights, norm_saturation
from lightning_normdyn.retrieval.audit.scan import norm_distribution, scan_norms
from lightning_normdyn.retrieval.audit.text_measures import letters, word_frequency
from lightning_normdyn.retrieval.search.shared_pass import share_pass


def drawn(rows, dim, seed=0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 17), st.sampled_from([torch.float16, torch.float32, torch.float64]))
def test_norms_are_those_of_a_loop_however_the_rows_are_cut(rows, size, dtype):
    vectors = (30 * drawn(rows, 5, seed=rows)).to(dtype)
    vectors[rows // 2] = 0
    found = scan_norms(iter(vectors.split(size)), rows)
    expected = [math.sqrt(math.fsum(float(x) ** 2 for x in row)) for row in vectors]
    np.testing.assert_allclose(found.norms.numpy(), expected, rtol=1e-12)
    assert found.norms.dtype == torch.float64
    assert len(found.sample) == rows - 1
    assert found.dim == 5


def test_a_sample_is_of_distinct_rows_from_everywhere():
    vectors = torch.arange(1.0, 20_001).unsqueeze(1).expand(-1, 2)
    sample = scan_norms(iter(vectors.split(3_000)), 20_000).sample[:, 0]
    assert len(sample.unique()) == len(sample) == 8_192
    assert abs(float(sample.mean()) / 10_000 - 1) < 0.03


def test_rows_that_are_not_finite_are_counted_and_refused():
    vectors = torch.ones(9, 2)
    vectors[4, 0], vectors[7, 1] = math.nan, math.inf
    with pytest.raises(ValueError, match=r"^mine: expected finite numbers, .* in 2 of 9 rows, the first being row 4"):
        scan_norms(iter(vectors.split(3)), 9, name="mine")
    with pytest.raises(ValueError, match=r"^mine: expected \[2, 2\] as announced, got \[1, 3\] at row 1"):
        scan_norms(iter([torch.ones(1, 2), torch.ones(1, 3)]), 2, name="mine")
    with pytest.raises(ValueError, match="expected some vectors, got 0"):
        scan_norms(iter([]), 0)
    with pytest.raises(ValueError, match="expected 3 vectors, got 2; is the file whole"):
        scan_norms(iter([torch.ones(2, 2)]), 3)


def test_the_distribution_is_numpys():
    norms = drawn(501, 4).norm(dim=1)
    norms[:3] = 0
    found = norm_distribution(norms)
    kept = norms[3:].numpy()
    for level, value in found.quantiles.items():
        assert value == pytest.approx(np.quantile(kept, level), rel=1e-12)
    assert found.cv == pytest.approx(kept.std() / kept.mean())
    assert (found.rows, found.zeros, sum(found.counts)) == (501, 3, 498)
    inside, _ = np.histogram(kept, found.edges)
    assert list(inside) == list(found.counts)
    assert (found.below, found.above) == (0, 0)
    assert max(found.counts[0], found.counts[-1]) < 10  # the frame holds nearly all of them
    with pytest.raises(ValueError, match="all zero"):
        norm_distribution(torch.zeros(3))


def test_outliers_are_in_no_bar_of_the_histogram():
    norms = torch.cat((1 + drawn(5_000, 1, seed=2).squeeze(1).clamp(-3, 3) / 10, torch.tensor([6.37, 5.9, 0.01])))
    found = norm_distribution(norms, near_dead_limit=0.1)
    assert (found.below, found.above, found.near_dead) == (0, 2, 1)
    assert sum(found.counts) == 5_000
    assert found.edges[-1] < 2
    assert found.quantiles[1.0] == pytest.approx(6.37)
    inside, _ = np.histogram(norms.numpy(), found.edges)
    assert list(inside) == list(found.counts)


def gains(dim):
    return torch.linspace(0.3, 2.0, dim, dtype=torch.float64)


def rms_normed(x):
    return x / x.square().mean(1, keepdim=True).sqrt()


SURFACES = {
    "unit": lambda x: x / x.norm(dim=1, keepdim=True),
    "constant": lambda x: torch.nn.functional.layer_norm(x, (x.shape[1],)),
    "layer norm": lambda x: torch.nn.functional.layer_norm(x, (x.shape[1],), gains(x.shape[1]), gains(x.shape[1]) - 1),
    "rms norm": lambda x: rms_normed(x) * gains(x.shape[1]),
    "mean of tokens": lambda x: SURFACES["layer norm"](x) * 0.5 + SURFACES["layer norm"](x.flip(0)) * 0.5,
    "free": lambda x: x * gains(x.shape[1]),
    "a constant column": lambda x: torch.cat((x[:, :-1], torch.ones(len(x), 1, dtype=x.dtype)), 1),
    "clipped": lambda x: x * (4.0 / x.norm(dim=1, keepdim=True)).clamp(max=1),
}
KINDS = {
    "unit": "unit",
    "constant": "constant",
    "layer norm": "ellipsoid",
    "rms norm": "ellipsoid",
    "clipped": "clipped",
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("surface", SURFACES)
def test_what_a_last_layer_does_to_norms_is_seen(surface, dtype):
    vectors = SURFACES[surface](drawn(1_500, 16)).to(dtype)
    found = norm_saturation(vectors.double().norm(dim=1), vectors)
    assert found.kind == KINDS.get(surface, "free"), found
    if surface == "layer norm":
        assert found.in_hyperplane
        assert "LayerNorm" in found.sentence
    if surface == "rms norm":
        assert not found.in_hyperplane
        assert "RMSNorm" in found.sentence
    if dtype == torch.float64 and KINDS.get(surface) == "ellipsoid":
        assert found.off_ellipsoid < 1e-4


def test_too_few_rows_are_no_proof_of_a_surface():
    vectors = drawn(40, 16)
    found = norm_saturation(vectors.norm(dim=1), vectors, last_layer=LastLayer("LayerNorm", True, "mean", True))
    assert math.isnan(found.off_ellipsoid)
    assert found.kind == "unclear"
    assert "cannot be told from 40 vectors of 16 numbers" in found.sentence
    assert "taken off" in found.sentence
    assert "LayerNorm" in found.sentence


def layer_normed(rows: int, dim: int, decay: float, common: float) -> torch.Tensor:
    """Few rows of a LayerNorm with weights and biases, over inputs with a spectrum, or with a common direction."""
    inputs = drawn(rows, dim) * torch.arange(1, dim + 1).double().pow(-decay)
    inputs = inputs @ torch.linalg.qr(drawn(dim, dim, seed=1))[0] + common * inputs.std() * drawn(1, dim, seed=2)
    weights = (1 + 0.3 * drawn(1, dim, seed=3)).abs().clamp(min=0.1)
    weights[:, :3] += 4 * common  # the outlying dimensions of real models
    return torch.nn.functional.layer_norm(inputs, (dim,)) * weights + 0.1 * drawn(1, dim, seed=4)


@pytest.mark.parametrize(("rows", "dim"), [(100, 384), (200, 768), (300, 1024)])
@pytest.mark.parametrize(("decay", "common"), [(0.0, 0.0), (0.3, 0.0), (0.7, 0.0), (0.7, 1.5)])
def test_few_rows_of_a_layer_norm_are_never_called_free(rows, dim, decay, common):
    vectors = layer_normed(rows, dim, decay, common)
    found = norm_saturation(vectors.norm(dim=1), vectors)
    assert found.kind == "unclear"
    assert f"give {math.ceil(3.75 * dim):,} vectors or more" in found.sentence
    for pooling, kind in {"": "ellipsoid", "cls": "ellipsoid", "last": "ellipsoid", "mean": "unclear"}.items():
        told = norm_saturation(vectors.norm(dim=1), vectors, last_layer=LastLayer("LayerNorm", True, pooling, False))
        assert told.kind == kind
        assert ("by the model" in told.sentence) == (kind == "ellipsoid")
    batch = norm_saturation(vectors.norm(dim=1), vectors, last_layer=LastLayer("BatchNorm1d", True, "", False))
    assert batch.kind == "unclear"
    # The same directions with a factor of their own each: these norms are free, and directions say nothing of them.
    freed = vectors * (0.3 * drawn(rows, 1, seed=9)).exp()
    found = norm_saturation(freed.norm(dim=1), freed)
    assert found.kind == "free"
    assert found.by_direction < 0.1


@pytest.mark.parametrize("kind", ["LayerNorm", "RMSNorm", "gemma"])
def test_weights_of_the_last_layer_answer_for_any_number_of_vectors(kind):
    """LayerNorm's outputs lie on the ellipsoid of its weights, and means or maxima of them off it: no fit is needed."""
    torch.manual_seed(0)
    dim = 96
    gains = torch.rand(dim, dtype=torch.float64) + 0.3
    shifts = 0.1 * torch.randn(dim, dtype=torch.float64) if kind == "LayerNorm" else None
    tokens = drawn(40 * 12, dim) + 2 * drawn(40, dim, seed=5).repeat_interleave(12, 0)
    normed = torch.nn.functional.layer_norm(tokens, (dim,)) if kind == "LayerNorm" else rms_normed(tokens)
    outputs = normed * gains + (0 if shifts is None else shifts)
    weights = NormWeights.of(gains - float(kind == "gemma"), shifts, outputs)
    assert weights.heights(outputs).tolist() == pytest.approx([1.0] * len(outputs), rel=1e-4)
    by_text = outputs.view(40, 12, dim)
    for pooling, vectors in (("cls", by_text[:, 0]), ("mean", by_text.mean(1)), ("max", by_text.amax(1))):
        layer = LastLayer(kind, True, pooling, False, weights)
        saturation = norm_saturation(vectors.norm(dim=1), vectors, last_layer=layer)
        squares = [
            sum(((x - b) / g) ** 2 for x, b, g in zip(row, weights.shifts, weights.gains, strict=True))
            for row in vectors
        ]
        heights = torch.stack(squares) / dim
        spread = float(heights.std(correction=0) / heights.mean())
        assert saturation.off_ellipsoid == pytest.approx(spread, rel=1e-6, abs=1e-9)
        assert saturation.by_weights
        assert saturation.kind == ("ellipsoid" if pooling == "cls" else "free")
        said = (
            "lie on the ellipsoid of the weights"
            if pooling == "cls"
            else "the vectors lie on no ellipsoid of the weights"
        )
        assert said in saturation.sentence
        assert norm_saturation(vectors.norm(dim=1), vectors).kind == "unclear"  # without the model
    assert NormWeights.of(gains * 2, shifts, outputs) is None  # not the layer's own
    assert NormWeights.of(gains[:5], shifts, outputs) is None


def test_a_gain_of_zero_hides_nothing_of_a_layer_norm():
    """As in all-MiniLM-L6-v2, where the coordinate that leaves the layer as a constant had most of the length."""
    dim = 64
    tokens = drawn(200, dim)
    tokens[:, 7] *= 20 * torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gains = torch.linspace(0.4, 1.2, dim, dtype=torch.float64)
    gains[7] = 1e-33
    outputs = torch.nn.functional.layer_norm(tokens, (dim,)) * gains + 0.1
    weights = NormWeights.of(gains, torch.full((dim,), 0.1), outputs.float())
    assert weights.heights(outputs).tolist() == pytest.approx([1.0] * 200, abs=1e-4)
    layer = LastLayer("LayerNorm", True, "cls", False, weights)
    assert norm_saturation(outputs.norm(dim=1), outputs, last_layer=layer).kind == "ellipsoid"
    # Of two coordinates that are hidden the length is lost, and what is left has a norm beside its direction.
    gains[9] = 0.0
    outputs = torch.nn.functional.layer_norm(tokens, (dim,)) * gains
    weights = NormWeights.of(gains, None, outputs)
    normed = torch.nn.functional.layer_norm(tokens, (dim,)).square()
    expected = (normed.sum(1) - normed[:, 7] - normed[:, 9]) / dim
    assert weights.heights(outputs).tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    layer = LastLayer("LayerNorm", True, "cls", False, weights)
    assert norm_saturation(outputs.norm(dim=1), outputs, last_layer=layer).kind == "free"
    assert NormWeights.of(gains, None, outputs + 0.1) is None  # no layer whose gains are 0 gives that
    assert NormWeights.of(gains, None, 2 * outputs) is None


def test_what_directions_predict_is_what_regressions_without_each_row_predict():
    vectors = layer_normed(60, 24, 0.5, 0.5)
    norms = vectors.norm(dim=1)
    directions = (vectors / norms[:, None]).numpy()
    target = ((norms.mean() / norms) ** 2).numpy()
    scale = (directions**2).mean()
    features = np.hstack([directions**2 / scale, directions / scale**0.5])
    centred = features - features.mean(0)
    largest = np.linalg.eigvalsh(centred @ centred.T).max()
    errors = []
    for penalty in np.logspace(-7, 1, 17) * largest:
        left = []
        for row in range(60):
            others = np.delete(np.arange(60), row)
            x, y = centred[others], target[others]
            # An intercept without penalty, at the mean of the others.
            slope = np.linalg.solve(
                (x - x.mean(0)).T @ (x - x.mean(0)) + penalty * np.eye(48), (x - x.mean(0)).T @ (y - y.mean())
            )
            left.append(target[row] - y.mean() - (centred[row] - x.mean(0)) @ slope)
        errors.append(np.mean(np.square(left)))
    expected = 1 - min(errors) / np.var(target)
    found = norm_saturation(norms, vectors)
    assert found.by_direction == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dim", [384, 1_024])
def test_an_ellipsoid_is_found_from_fewer_than_four_rows_a_number(dim):
    vectors = layer_normed(math.ceil(3.75 * dim), dim, 0.7, 1.5)
    found = norm_saturation(vectors.norm(dim=1), vectors)
    assert (found.kind, found.in_hyperplane) == ("ellipsoid", True)


def test_an_effect_is_cohens_and_its_interval_that_of_a_bootstrap():
    generator = torch.Generator().manual_seed(1)
    # Skew, of another spread, and so far apart that the spread's own error counts.
    first = 4 * torch.rand(300, generator=generator, dtype=torch.float64) ** 3 + 4
    second = 0.5 + torch.randn(900, generator=generator, dtype=torch.float64)
    found = difference(first, second)
    assert found.value == pytest.approx(float(cohens_d(first, second)))
    draws = [
        float(cohens_d(first[torch.randint(300, (300,), generator=generator)],
                       second[torch.randint(900, (900,), generator=generator)]))
        for _ in range(1_500)
    ]  # fmt: skip
    spread = (found.high - found.low) / 2 / 1.959964
    assert spread == pytest.approx(np.std(draws), rel=0.06)
    assert math.isnan(difference(torch.ones(5), torch.ones(5)).value)
    assert math.isnan(difference(torch.ones(5), torch.ones(0)).value)


def test_groups_that_differ_are_found_and_others_are_not():
    norms = 5 + drawn(2_000, 1).squeeze(1)
    names = ["long" if place % 4 == 0 else "plain" if place % 4 == 1 else "other" for place in range(2_000)]
    norms[::4] += 0.8
    names[-1] = None
    norms[-2] = 0
    found = {one.group: one for one in group_norms(norms, {"source": names, "rare": ["x"] * 5 + [None] * 1_995})}
    assert set(found) == {"long", "plain", "other"}
    assert found["long"].differs
    assert found["long"].effect.low < 0.8 < found["long"].effect.high
    assert sum(one.items for one in found.values()) == 1_998
    assert found["long"].mean == pytest.approx(float(norms[::4].mean()))
    with pytest.raises(ValueError, match="source"):
        group_norms(norms, {"source": names[:-1]})


def test_intervals_of_all_groups_hold_together():
    misses = 0
    for seed in range(100):
        norms = 5 + drawn(400, 1, seed=seed).squeeze(1)
        found = group_norms(norms, {"source": [str(place % 8) for place in range(400)]})
        misses += any(one.effect.low > 0 or one.effect.high < 0 for one in found)
    assert misses <= 11  # 5 are expected; 12 or more come once in 250 times


def test_every_reader_sees_every_chunk_while_few_are_open():
    open_now, most = 0, 0

    def chunks():
        nonlocal open_now, most
        for at in range(30):
            open_now += 1
            most = max(most, open_now)
            yield torch.full((2,), float(at))

    def reader(them):
        nonlocal open_now
        total = 0.0
        for chunk in them:
            total += float(chunk.sum())
            if total >= 0:
                open_now -= 1
        return total

    found = share_pass(chunks(), [reader, lambda them: [float(chunk[0]) for chunk in them]])
    assert found == [2.0 * sum(range(30)), [float(at) for at in range(30)]]
    assert most <= 4


@pytest.mark.parametrize("broken", ["reader", "chunks"])
def test_what_fails_in_a_shared_pass_is_raised_and_nothing_hangs(broken):
    read = 0

    def chunks():
        nonlocal read
        for at in range(1_000):
            if broken == "chunks" and at == 3:
                raise OSError("the disk is gone")
            read += 1
            yield torch.ones(1)

    def stops(them):
        next(them)
        if broken == "reader":
            raise ValueError("no more")
        return sum(1 for _ in them)

    with pytest.raises((ValueError, OSError), match="no more" if broken == "reader" else "the disk is gone"):
        share_pass(chunks(), [stops, lambda them: sum(1 for _ in them)])
    assert read < 1_000


def test_frequency_of_words_is_that_of_a_loop():
    texts = ["The cat sat", "the dog", "", "cat, CAT!"]
    words = [["the", "cat", "sat"], ["the", "dog"], [], ["cat", "cat"]]
    counts = Counter(word for one in words for word in one)
    expected = [np.mean([np.log(counts[word]) for word in one]) if one else math.nan for one in words]
    np.testing.assert_allclose(word_frequency(texts).numpy(), expected)
    assert letters(texts).tolist() == [11, 7, 0, 9]
