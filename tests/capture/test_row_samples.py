"""Which rows of a large table are tracked: index arithmetic up to any size, by frequency, with nothing of its size."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from brute_force import expected_moments, expected_split
from hypothesis import given, settings, strategies as st
from plain_training import train_plainly
from small_models import Lit, PairTable, Prototypes, TwoTables, feature_batches, pair_batches, seeded
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.capture.layout import block_range
from lightning_normdyn.capture.row_sample import RowSample, StratifiedSample, sample_of
from lightning_normdyn.capture.table import TableTarget
from lightning_normdyn.capture.targets import find_targets
from lightning_normdyn.history import read_run
from lightning_normdyn.instruments import Instrument, NormObserver

STEPS = 12
HUGE = [100_000_000, 2**31 + 5, 2**40 + 1]
CPU = torch.device("cpu")


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, in bytes."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given_memory = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if has_memory(t)}
        for tensor in tree_leaves(result):
            if has_memory(tensor) and tensor.untyped_storage().data_ptr() not in given_memory:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


def has_memory(item):
    return isinstance(item, torch.Tensor) and item.layout is torch.strided and item.device.type != "meta"


def even(rows):
    """By hand: the smallest stride that leaves at most 16,384 rows."""
    stride = math.ceil(rows / 16_384)
    return stride, math.ceil(rows / stride)


@pytest.mark.parametrize("rows", HUGE)
def test_a_table_of_any_size_is_sampled_in_whole_numbers(rows):
    """On the meta device, where it takes no memory; Python's own numbers do not overflow."""
    with LargestTensor() as made:
        table = nn.Embedding(rows, 64, device="meta", padding_idx=rows - 1)
        target = TableTarget("weight", table)
        stride, tracked = even(rows)
        assert target.tracked_rows == tracked
        numbers = target.row_numbers()
        draw = random.Random(0)
        ids = [draw.randrange(rows) for _ in range(500)] + [0, rows - 1, stride, stride * (tracked - 1)]
        slots = target.slots(torch.tensor(ids)).tolist()
        padding = target.padding()
    assert numbers.tolist() == [slot * stride for slot in range(tracked)]
    assert slots == [row // stride if row % stride == 0 else tracked for row in ids]
    assert padding.tolist() == [slot * stride == rows - 1 for slot in range(tracked)]
    assert made.largest <= 8 * 2 * tracked


@pytest.mark.parametrize("rows", HUGE)
@pytest.mark.parametrize("ranks", [1, 7, 500])
def test_ranks_share_the_tracked_rows_of_a_table_of_any_size(rows, ranks):
    """Each slot is of one rank, and its row is where that rank looks for it; so too where shards are split again."""
    for sample in (RowSample(rows, 16_384), of_numbers(rows, sorted({0, 5, rows // 3, rows - 2, rows - 1}))):
        slots, numbers = [], []
        with LargestTensor() as made:
            for rank in range(2 * ranks):
                start, stop = block_range(rows, [(rank // 2, ranks), (rank % 2, 2)])
                here, places = sample.within(start, stop, CPU)
                assert all(0 <= place < stop - start for place in places.tolist())
                slots += here.tolist()
                numbers += [start + place for place in places.tolist()]
        assert slots == list(range(sample.size))
        assert numbers == sample.numbers().tolist()
        assert made.largest <= 8 * sample.size


def of_numbers(rows, numbers):
    """A sample of some rows, as counts would choose them."""
    sample = StratifiedSample.__new__(StratifiedSample)
    sample.rows, sample.stride, sample.size = rows, 0, len(numbers)
    sample._numbers, sample._by_device = torch.tensor(numbers), {}
    return sample


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 4))
def test_blocks_are_those_of_torch(count, parts, parts_again):
    for place in range(parts):
        for place_again in range(parts_again):
            numbers = torch.arange(count)
            for number, size in ((place, parts), (place_again, parts_again)):
                chunks = numbers.chunk(size)
                numbers = chunks[number] if number < len(chunks) else numbers[:0]
            start, stop = block_range(count, [(place, parts), (place_again, parts_again)])
            assert list(range(start, stop)) == numbers.tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5_000) | st.integers(0, 2), min_size=2, max_size=300), st.integers(1, 80))
def test_each_octave_of_counts_has_its_share(counts, most_rows):
    """No octave has fewer tracked rows than another, unless all of its rows are tracked; octaves by logarithms."""
    sample = sample_of(len(counts), most_rows, counts)
    numbers = sample.numbers().tolist()
    assert len(numbers) == sample.size == min(len(counts), most_rows)
    assert numbers == sorted(set(numbers))
    if sample.is_whole:
        return
    octave = [-1 if count == 0 else int(math.log2(count)) for count in counts]
    members, tracked = (
        {o: [row for row in rows if octave[row] == o] for o in set(octave)} for rows in (range(len(counts)), numbers)
    )
    fewest = min((len(tracked[o]) for o in members if len(tracked[o]) < len(members[o])), default=math.inf)
    assert all(len(rows) <= fewest + 1 for rows in tracked.values())
    weights = dict(zip(numbers, sample.weights.tolist(), strict=True))
    assert all(weights[row] == pytest.approx(len(members[o]) / len(tracked[o])) for o in members for row in tracked[o])
    slots = sample.slots(torch.arange(len(counts))).tolist()
    assert slots == [numbers.index(row) if row in numbers else sample.size for row in range(len(counts))]


def test_a_sample_by_counts_is_drawn_in_chunks():
    """Counts of three chunks: octaves go on from one to the next, and no copy of all is wider than the counts."""
    counts = torch.ones(2_500_000, dtype=torch.int32)
    counts[::1_000_000] = 1_000
    with LargestTensor() as made:
        sample = StratifiedSample(counts, 100)
    assert set(range(0, 2_500_000, 1_000_000)) <= set(sample.numbers().tolist())
    assert sample.numbers().diff().max() < 2_500_000 / 97 * 1.1
    assert made.largest <= 8 * 2**20


def zipf_counts(rows):
    return (1_000 / torch.arange(1, rows + 1)).long()


def decaying_sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.3, weight_decay=0.05)


def test_a_table_sampled_by_counts_is_measured_as_row_by_row(fit, tmp_path):
    net, batches, counts = seeded(lambda: PairTable("dot", rows=100)), pair_batches(STEPS, rows=100), zipf_counts(100)
    _, steps = train_plainly(net, batches, decaying_sgd, "table.weight")
    callback = NormDynamics(every_n_steps=1, window=STEPS, max_tracked_rows=16, row_counts=counts)
    trainer = fit(Lit(net, decaying_sgd), batches, callback)
    sample = StratifiedSample(counts, 16)
    rows, weights = sample.numbers().tolist(), sample.weights.numpy()
    logged, met = trainer.logger.of("net.table.weight"), np.zeros(16, bool)
    for number, step in enumerate(steps, 1):
        expected = expected_split(step, effective_lr=0.3, decay_rate=0.3 * 0.05, rows=rows)
        assert {key: logged[number][key] for key in expected} == pytest.approx(expected, rel=2e-5, abs=1e-6)
        met |= step.gradient.numpy()[rows].any(1)
        norms = np.linalg.norm(step.after.numpy()[rows][met], axis=1)
        table = np.repeat(norms, np.round(weights[met] * 1_000).astype(int))  # each as often as it stands for rows
        expected = {"norm_mean": table.mean(), "norm_cv": table.std() / table.mean()}
        assert {key: logged[number][key] for key in expected} == pytest.approx(expected, rel=1e-3)
        for level in (5, 50, 95):
            quantile = np.quantile(table, level / 100, method="inverted_cdf")
            assert logged[number][f"norm_p{level:02}"] == pytest.approx(quantile, rel=1e-5)
    trajectory = read_run(tmp_path)["net.table.weight"].trajectory()
    fitted = trajectory.filter(~np.isnan(trajectory["second_moment"].to_numpy().astype(float)))
    assert fitted["row"].to_pylist() == rows
    second_moment, share = expected_moments(steps, rows)
    np.testing.assert_allclose(fitted["second_moment"].to_numpy(), second_moment, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(fitted["update_probability"].to_numpy(), share, rtol=1e-6)


class Rank(Instrument):
    """One of the user's own, which is shown the tracked rows."""

    quantities = ("rank",)

    def measure(self, look):
        return {"rank": float(torch.linalg.matrix_rank(look.vectors))}


@pytest.mark.parametrize("counts", [None, zipf_counts(400_000)], ids=["even", "by counts"])
def test_no_step_makes_anything_as_large_as_the_table(counts):
    """Sparse gradients, each part of the observer, checkpoints and the end of the run included."""
    net = PairTable("dot", rows=400_000, sparse=True)
    with torch.no_grad():
        net.table.weight.normal_()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    options = {"max_tracked_rows": 64, "row_counts": counts, "every_n_steps": 4, "window": 10, "log": lambda *_: None}
    observer = NormObserver(net, optimizer, total_steps=30, instruments=[Rank()], **options)
    with LargestTensor() as made, observer:
        begun, made.largest = made.largest, 0
        for batch in pair_batches(30, rows=400_000):
            optimizer.zero_grad()
            net(batch).backward()
            optimizer.step()
        observer.state_dict()
    assert made.largest < 400_000  # not a byte a row
    assert begun < 400_000 or counts is not None  # which are as long as the table, and looked at once


def test_accumulators_of_a_large_table_are_read_where_rows_are_tracked():
    """Adagrad's, whose sums over rows take float64."""
    net = PairTable("dot", rows=50_000)
    optimizer = torch.optim.Adagrad(net.parameters(), lr=0.1)
    target = TableTarget("table.weight", net, max_tracked_rows=50)
    with LargestTensor() as made:
        sums = target.tracked_products(optimizer.state[net.table.weight]["sum"])
    assert made.largest <= 50 * 8 * 8
    assert sums.tolist() == [0.0] * 50


def test_a_resumed_run_takes_the_rows_that_it_took():
    net, counts = seeded(lambda: PairTable("dot", rows=100)), zipf_counts(100)
    optimizer = decaying_sgd(net)

    def observed(**options):
        return NormObserver(net, optimizer, total_steps=20, max_tracked_rows=16, log=lambda *_: None, **options)

    def trained(observer, batches):
        with observer:
            for batch in batches:
                optimizer.zero_grad()
                net(batch).backward()
                optimizer.step()
        return observer.state_dict()

    state = trained(observed(row_counts=counts), pair_batches(5, rows=100))
    again = observed(row_counts=counts)
    again.load_state_dict(state)
    assert trained(again, pair_batches(5, rows=100))["targets"]["table.weight"]["steps"] == 10
    other = observed(row_counts=counts.flip(0))
    other.load_state_dict(state)
    with pytest.warns(UserWarning, match="tracked other rows; pass the row_counts= and max_tracked_rows= of then"):
        trained(other, pair_batches(1, rows=100))


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ([1, 2, 3], r"row_counts: expected a count for each of the 30 rows of 'table.weight', got \(3,\)"),
        ([-1] * 30, "row_counts: expected finite counts of 0 or more for 'table.weight', got one of -1"),
        (
            [math.nan] * 30,
            "row_counts: expected finite counts of 0 or more for 'table.weight', got one of nan, that",
        ),
        ([0.0] * 29 + [math.inf], "got one of inf, that of row 29; torch.bincount"),
        ([0.0, math.nan] + [-1] * 28, "got one of nan, that of row 1; torch.bincount"),
        (torch.ones(30, dtype=torch.complex64), "row_counts: expected numbers, one a row, .*complex64"),
        (torch.ones(30).to_sparse(), "row_counts: expected numbers, one a row, .*sparse"),
        (torch.ones(30, device="meta"), "row_counts: expected numbers, one a row, .*meta"),
        (np.ones(30, dtype=complex), "row_counts: expected numbers, one a row, .*complex128"),
        (np.zeros(30, dtype=[("row", "i4"), ("count", "i4")]), "row_counts: expected numbers, one a row, .*count"),
        (["a"] * 30, "row_counts: expected numbers, one a row"),
        ("missing.npy", "row_counts: no file 'missing.npy'"),
        (7, "row_counts: expected a count for each row .*, got 7"),
    ],
)
def test_counts_that_fit_no_table_are_refused(counts, sentence):
    with pytest.raises(ValueError, match=sentence):
        find_targets(PairTable(), ["table.weight"], row_counts=counts)


def test_counts_of_several_tables_go_by_name(tmp_path):
    np.save(tmp_path / "counts.npy", np.arange(30, dtype=np.uint32))
    net = TwoTables()
    counts = {"queries.weight": tmp_path / "counts.npy"}
    queries, documents = find_targets(net, "auto", max_tracked_rows=6, row_counts=counts)
    assert queries.row_numbers().tolist() == StratifiedSample(torch.arange(30), 6).numbers().tolist()
    assert documents.row_numbers().tolist() == list(range(0, documents.rows, documents.rows // 6))
    with pytest.raises(ValueError, match="row_counts: expected a dict of target names to counts, since there are 2"):
        find_targets(net, "auto", row_counts=list(range(30)))


class Columns(nn.Module):
    """Prototypes as the columns of a matrix ``[d, classes]``, as PyTorch Metric Learning holds them."""

    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(seeded(Prototypes).prototypes.detach().T.clone())

    def forward(self, batch):
        features, classes = batch
        return nn.functional.cross_entropy(features @ nn.functional.normalize(self.W, dim=0), classes)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_columns_are_measured_as_the_rows_of_the_matrix_turned_over(fit, tmp_path, optimizer):
    def configure(net):
        return decaying_sgd(net) if optimizer == "sgd" else torch.optim.Adagrad(net.parameters(), lr=0.1)

    logged, trajectories = [], []
    for make, name in ((Columns, "net.W"), (Prototypes, "net.prototypes")):
        pattern = f"{name}:columns" if make is Columns else name
        folder = tmp_path / name
        callback = NormDynamics(targets=[pattern], every_n_steps=2, window=STEPS, instruments=[Rank()])
        trainer = fit(Lit(seeded(make), configure), feature_batches(STEPS), callback, default_root_dir=folder)
        logged.append(trainer.logger.of(name))
        trajectories.append(read_run(folder)[name].trajectory().to_pydict())
    columns, rows = logged
    assert columns.keys() == rows.keys()
    for step, values in rows.items():
        assert columns[step] == pytest.approx(values, rel=1e-5, abs=1e-6, nan_ok=True)
    for name, values in trajectories[1].items():
        found, wanted = (np.array(column, dtype=float) for column in (trajectories[0][name], values))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_matrix_is_named_by_its_rows_or_by_its_columns():
    net = Columns()
    assert [(target.name, target.rows, target.dim) for target in find_targets(net, "W:columns")] == [("W", 30, 8)]
    with pytest.raises(ValueError, match="'W' has its embeddings in rows or in columns, got both"):
        find_targets(net, ["W", "W:columns"])
    with pytest.raises(ValueError, match=r"'nope:columns' matches no 2-D parameter; candidates are the tables W"):
        find_targets(net, ["nope:columns"])
