"""Rules on what number formats and guards lose, and on gradients that are not what they seem."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from planted_evidence import evidence_of, rules_that_speak, severities, verdicts_of
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from lightning_normdyn.instruments.run_facts import RunFacts, _gradient_scale
from lightning_normdyn.instruments.verdicts.evidence import TypicalRow
from lightning_normdyn.instruments.verdicts.rules import judge


class Cosines(nn.Module):
    """A table of which pairs of rows are matched among a batch, by cosines."""

    def __init__(self, *, norm=1.0, dtype=torch.float32):
        super().__init__()
        self.table = nn.Embedding(40, 16)
        with torch.no_grad():
            self.table.weight.copy_(norm * normalize(self.table.weight, dim=-1))
        self.to(dtype)

    def forward(self, pairs):
        vectors = self.table(pairs)
        queries, documents = normalize(vectors.float(), dim=-1).unbind(1)
        return cross_entropy(5 * queries @ documents.T, torch.arange(len(pairs)))


def pairs():
    first = torch.randint(40, (20,))
    return torch.stack((first, (first + torch.randint(1, 4, (20,))) % 40), 1)


@pytest.mark.parametrize(("lr", "is_lost"), [(1e-4, True), (2e-2, False)])
def test_steps_below_the_gaps_of_bfloat16_are_lost(lr, is_lost):
    torch.manual_seed(0)
    model = Cosines(norm=4.0, dtype=torch.bfloat16)
    start = model.table.weight.detach().clone()
    rules = verdicts_of(model, pairs, torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1))
    moved = float((model.table.weight.detach() != start).float().mean())
    assert ("lost_steps" in rules) == is_lost
    assert moved < 0.05 if is_lost else moved > 0.9


def test_the_rate_that_is_not_lost_moves_the_weights():
    torch.manual_seed(0)
    model = Cosines(norm=4.0, dtype=torch.bfloat16)
    lever = verdicts_of(model, pairs, torch.optim.AdamW(model.parameters(), lr=1e-5))["lost_steps"].lever
    lr = float(lever.rpartition("from 1e-05 to ")[2].split(",")[0])
    start = model.table.weight.detach().clone()
    assert "lost_steps" not in verdicts_of(model, pairs, torch.optim.AdamW(model.parameters(), lr=lr))
    assert float((model.table.weight.detach() != start).float().mean()) > 0.5


@pytest.mark.parametrize("build", [torch.optim.AdamW, torch.optim.RMSprop])
def test_the_gradients_size_is_that_of_its_squares(build):
    """Against a loop over the gradients in float64."""
    torch.manual_seed(0)
    model = Cosines()
    optimizer, beta = build(model.parameters(), lr=1e-3), 0.999 if build is torch.optim.AdamW else 0.99
    average = torch.zeros(40, 16, dtype=torch.float64)
    for _ in range(30):
        optimizer.zero_grad()
        model(pairs()).backward()
        average = beta * average + (1 - beta) * model.table.weight.grad.double().square()
        optimizer.step()
    if build is torch.optim.AdamW:
        average /= 1 - beta**30
    expected = float(average[average > 0].median().sqrt())
    assert _gradient_scale(optimizer, model.table.weight) == pytest.approx(expected, rel=1e-4)
    assert _gradient_scale(torch.optim.SGD(model.parameters(), lr=1.0), model.table.weight) is None
    assert _gradient_scale(SimpleNamespace(param_groups=[]), model.table.weight) is None


def test_an_eps_that_swamps_gradients_is_told_and_its_lever_cures_it():
    torch.manual_seed(0)
    rules = verdicts_of(model := Cosines(), pairs, torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1.0))
    eps = float(rules["swamped_gradients"].lever.partition("eps=")[2])
    rules = verdicts_of(model := Cosines(), pairs, torch.optim.AdamW(model.parameters(), lr=1e-2, eps=eps))
    assert "swamped_gradients" not in rules


def test_what_is_not_finite_from_the_first_step_is_not_put_down_to_the_rate():
    values = {"nonfinite_gradients": 5.0}
    assert "the learning rate has no part in it" in rules_that_speak(values)["nonfinite_gradients"].lever
    later = rules_that_speak(values | {"gradient_norm": 1.0})["nonfinite_gradients"].lever
    assert "lower the learning rate" in later
    half = {"eps": 1e-8, "dtype": torch.float16}
    assert "its eps=1e-08 is 0 in torch.float16" in rules_that_speak(values, **half)["nonfinite_gradients"].lever
    assert "is 0 in" not in rules_that_speak(values, eps=1e-8)["nonfinite_gradients"].lever


def gradients(norms, *, readings=8, **facts):
    """Verdicts on a table whose gradient had these norms in turn."""
    evidence = evidence_of({}, optimizer=torch.optim.SGD([torch.ones(1)], lr=0.1, weight_decay=1e-3), **facts)
    for step in range(readings):
        evidence.courses.note(100 + step, {"gradient_norm": norms[step % len(norms)], "clip_ratio": 1.0})
    return {verdict.rule: verdict for verdict in judge(evidence)}


def test_a_gradient_of_one_norm_was_clipped_before_it_was_seen():
    assert "clip at several times" in gradients([1.0])["clipping_sets_steps"].lever
    assert "unscale_" in gradients([2.0**-16], loss_scale=2.0**16)["clipping_sets_steps"].lever
    assert "clipping_sets_steps" not in gradients([1.0, 1.01])
    assert "clipping_sets_steps" not in gradients([0.0])


def clipped(growth):
    """The lever on clipping that leaves a thousandth of the gradient."""
    evidence = evidence_of({}, optimizer=torch.optim.SGD([torch.ones(1)], lr=0.1, weight_decay=1e-3))
    for step in range(8):
        evidence.courses.note(100 + step, {"clip_ratio": 1e-3, "budget_growth": growth, "gradient_norm": 1.0 + step})
    return {verdict.rule: verdict for verdict in judge(evidence)}["clipping_sets_steps"].lever


def test_steps_that_would_be_longer_than_rows_are_not_let_off_their_clipping():
    """Steps of a thousandth of a row become as long as it, those of a millionth a thousandth."""
    assert "lower the learning rate from 0.1 to 0.0001" in clipped(1e-6)
    assert "or lower the learning rate instead" in clipped(1e-12)


SHARES = {"gradient_norm": 0.1, "budget_drift": 0.01}


def test_half_precision_of_rows_that_meet_the_loss_is_no_note():
    values = SHARES | {"radial_fraction": 3e-3}
    scored, looked_up = TypicalRow(0.02, 1.0), TypicalRow(0.02, 0.4)
    assert severities(values, typical_row=scored)["half_precision"] == "warning"
    assert severities(values, typical_row=looked_up)["half_precision"] == "note"
    assert severities(values, typical_row=looked_up, meets_loss=True)["half_precision"] == "warning"


@pytest.mark.parametrize(
    ("share", "losses", "meets_loss", "severity"),
    [
        (0.1, (), True, "warning"),  # of 16 numbers a direction by chance has 0.25
        (0.2, (), True, None),
        (0.1, (), False, None),
        (0.2, ("cosine",), True, "warning"),
        (0.2, ("cosine",), False, "note"),
        (0.1, ("dot",), True, None),
    ],
)
def test_a_weak_term_that_sees_lengths_is_told_from_a_loss_of_products(share, losses, meets_loss, severity):
    facts = {"loss_normalizations": losses, "meets_loss": meets_loss}
    assert severities(SHARES | {"radial_fraction": share}, **facts).get("radial_leak") == severity


def test_gradients_that_nobody_zeroes_are_told_from_a_term_that_sees_lengths():
    evidence = evidence_of({"radial_fraction": 0.9}, loss_normalizations=("cosine",), meets_loss=True)
    for step in range(6):
        evidence.courses.note(step, {"gradient_norm": 1.0 + 2 * step, "budget_drift": 0.1})
    assert "zero_grad" in {verdict.rule: verdict.lever for verdict in judge(evidence)}["radial_leak"]
    torch.manual_seed(0)
    model = Cosines()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    start = []
    for _ in range(150):
        model(pairs()).backward()  # added to those before
        gradient, rows = model.table.weight.grad, model.table.weight.detach()
        radial = (gradient * normalize(rows, dim=-1)).sum(1).norm() / gradient.norm()
        start.append((float(radial), float(gradient.norm())))
        optimizer.step()
    assert start[-1][0] > 0.5
    assert start[-1][1] > 3 * start[0][1]


class Encoder(nn.Module):
    """Cosines of an encoder's vectors with a penalty of their length, through a layer of its own or not."""

    def __init__(self, *, has_head):
        super().__init__()
        self.encoder = nn.Linear(8, 16)
        self.head = nn.Linear(16, 16) if has_head else nn.Identity()

    def forward(self, inputs):
        vectors = self.encoder(inputs)
        directions = normalize(self.head(vectors), dim=-1)
        return cross_entropy(5 * directions @ directions.T, torch.arange(len(inputs))) + 0.05 * vectors.square().mean()


@pytest.mark.parametrize("has_head", [False, True])
def test_an_encoder_meets_the_loss_unless_more_is_learnt_behind_it(has_head):
    model = Encoder(has_head=has_head)
    facts = []
    of_watch = RunFacts.of_watch

    def listen(self, watch, **options):
        facts.append(of_watch(self, watch, **options))
        return facts[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFacts, "of_watch", listen)
        inputs = torch.randn(12, 8)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        verdicts_of(model, inputs, optimizer, steps=12, targets=["encoder"])
    assert (facts[-1].meets_loss, facts[-1].dim, facts[-1].dtype) == (not has_head, 16, torch.float32)
