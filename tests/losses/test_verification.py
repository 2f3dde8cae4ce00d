"""verify_loss names what is wrong with losses that are wrong in a known way, and nothing about those that are right."""

from __future__ import annotations

import re

import planted_losses
import pytest
import torch
import torch.distributed as dist

from lightning_normdyn.losses import InfoNCE, verification, verify_loss
from lightning_normdyn.losses.float64_loop import Float64Loop
from lightning_normdyn.losses.trials import Trial, process_group, run_trial

pytestmark = pytest.mark.slow  # starts two processes twice

CLIP = {
    "ClipLoss": {},
    "ClipLoss that gathers gradient": {"gather_with_grad": True},
    "ClipLoss of its own rows": {"local_loss": True},
    "ClipLoss of its own rows that gathers gradient": {"local_loss": True, "gather_with_grad": True},
}
FUNCTIONS = [
    "local",
    "constants",
    "of_everybody",
    "of_everybody_scaled",
    "times_ranks",
    "in_parts",
    "summed",
    "shown_wrong",
    "blind",
    "infinite",
    "float32_only",
    "a_row_a_pair",
]
PLANTED = {name: getattr(planted_losses, name) for name in FUNCTIONS} | {"ours": InfoNCE()}
PLANTED |= {name: planted_losses.Clip(**options) for name, options in CLIP.items()}
TRIALS = [Trial(2, precision, 1, is_cached, 8) for precision in ("float32", "bfloat16") for is_cached in (False, True)]


def of_two_ranks(rank, folder):
    """All planted losses in one pair of processes, since processes take seconds to start."""
    torch.set_num_threads(1)
    with process_group(rank, 2, folder):
        steps = {name: [tuple(run_trial(trial, loss, rank)) for trial in TRIALS] for name, loss in PLANTED.items()}
        if rank == 0:
            torch.save(steps, f"{folder}/steps.pt")
        dist.barrier()


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(of_two_ranks, args=(str(folder),), nprocs=2)
    return torch.load(folder / "steps.pt", weights_only=True)


@pytest.fixture
def verify(steps, monkeypatch):
    """verify_loss, whose two processes have been run already."""
    run = verification.run_trials

    def run_trials(loss, trials):
        if trials[0].ranks == 1:
            return run(loss, trials)
        (name,) = (name for name, other in PLANTED.items() if other is loss)
        assert trials == TRIALS
        return [verification.Step(*step) for step in steps[name]]

    def verify(name, **options):
        monkeypatch.setattr(verification, "run_trials", run_trials)
        options.setdefault("symmetric", name in CLIP)
        return verify_loss(PLANTED[name], accumulate=1, precisions=["float32", "bfloat16"], **options)

    return verify


@pytest.mark.parametrize(
    "name",
    ["ours", "of_everybody_scaled", "ClipLoss that gathers gradient", "ClipLoss of its own rows that gathers gradient"],
)
def test_losses_that_are_right(verify, name):
    if name in CLIP:
        pytest.importorskip("open_clip")
    table = verify(name)
    assert table.is_right, str(table)
    for row in table.comparisons:
        tolerance = 1e-5 if row.trial.precision == "float32" else 0.02
        assert abs(row.loss_factor - 1) < tolerance
        assert abs(row.gradient_factor - 1) < tolerance
        assert row.residual < tolerance


@pytest.mark.parametrize(
    ("name", "alone", "together", "factor", "words"),
    [
        ("local", "right", "parts", None, "each rank meets its own 8 documents alone"),
        ("constants", "right", "constants", None, "gathered as constants"),
        ("ClipLoss of its own rows", "right", "constants", None, "gathered as constants"),
        ("of_everybody", "right", "scaled", 0.5, "DDP averages the gradients of ranks, .* multiply the loss by 2"),
        ("ClipLoss", "right", "scaled", 0.5, "DDP averages the gradients of ranks, .* multiply the loss by 2"),
        (
            "times_ranks",
            "right",
            "scaled",
            2.0,
            "2.00 times the right one, the number of ranks: .* divide the loss by 2",
        ),
        ("in_parts", "parts", "parts", None, "On one process, float32: it is the mean of 2 parts"),
        ("summed", "scaled", "parts", None, "8.00 times the right one, the number of pairs"),
        ("shown_wrong", "value", "parts", None, "the loss that is shown 2.00 times the right one"),
        ("blind", "none", "none", 0.0, "no gradient arrives"),
        ("infinite", "not finite", "not finite", None, "not finite; look for a logarithm"),
        ("a_row_a_pair", "failed", "failed", None, r"expected one number, got \(8,\)"),
    ],
)
def test_losses_that_are_wrong(verify, name, alone, together, factor, words):
    if name in CLIP:
        pytest.importorskip("open_clip")
    table = verify(name)
    assert not table.is_right
    findings = {ranks: {row.finding for row in table.comparisons if row.trial.ranks == ranks} for ranks in (1, 2)}
    assert findings == {1: {alone}, 2: {together}}, str(table)
    if factor is not None:
        last = table.comparisons[4]
        assert last.trial == TRIALS[0]
        assert last.gradient_factor == pytest.approx(factor, rel=1e-5)
    assert re.search(words, table.verdict), table.verdict
    assert table.verdict in str(table)


def test_one_that_fails_in_bfloat16_is_measured_elsewhere(verify):
    rows = verify("float32_only").comparisons[:4]
    assert [row.finding for row in rows] == ["right", "right", "failed", "right"]
    assert "dtype" in rows[2].failure


def test_another_temperature_is_another_loss_and_nothing_else_is_said(verify):
    table = verify("ours", temperature=0.5)
    assert table.comparisons[0].finding == "different"
    assert table.verdict.count("\n") == 0
    assert "say its normalization, temperature and symmetric" in table.verdict


def test_a_reference_of_the_callers(verify):
    warm = Float64Loop(temperature=0.5)
    assert not verify("ours", reference=warm).is_right
    assert verify("ours", reference=lambda q, d: Float64Loop()(q, d)).is_right


def test_processes_are_started_and_batches_accumulated():
    table = verify_loss(InfoNCE(symmetric=True), symmetric=True, precisions=["autocast"])
    assert table.is_right, str(table)
    assert [(row.trial.ranks, row.trial.accumulate) for row in table.comparisons[::2]] == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]


def test_a_loss_that_cannot_be_sent_is_refused():
    with pytest.raises(ValueError, match=r"loss: a function cannot be sent to other processes .* without lambda"):
        verify_loss(lambda q, d: (q * d).sum(), precisions=["float32"], accumulate=1)


@pytest.mark.parametrize("normalization", ["cosine", "dot", "qnorm", "dnorm"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loop_is_the_cross_entropy_of_scores(normalization, symmetric):
    """Written another way: a matrix of scores and torch's cross entropy, whose gradient is autograd's."""
    q, d = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    left = q / q.norm(dim=1, keepdim=True) if normalization in ("cosine", "qnorm") else q
    right = d / d.norm(dim=1, keepdim=True) if normalization in ("cosine", "dnorm") else d
    logits, targets = left @ right.T / 0.3, torch.arange(6)
    expected = torch.nn.functional.cross_entropy(logits, targets)
    if symmetric:
        expected = (expected + torch.nn.functional.cross_entropy(logits.T, targets)) / 2
    value = Float64Loop(normalization=normalization, temperature=0.3, symmetric=symmetric)(q, d)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, (q, d)), torch.autograd.grad(expected, (q, d)))
