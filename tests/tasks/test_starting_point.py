"""What is said before the first step: where training starts, and whether norms are an open question."""

import csv
import math
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger

from lightning_normdyn.callbacks import StepTime, step_time
from lightning_normdyn.core import NORMALIZATIONS
from lightning_normdyn.datasets import Judgements
from lightning_normdyn.retrieval import AlphaSweep, sweep_alpha
from lightning_normdyn.tasks import FewShot, FewShotData, Retrieval, RetrievalData, StartingPoint, Sts, StsData
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.encoders import SmallTextEncoder
from lightning_normdyn.tasks.grid.norm_question import NormQuestion, headroom_of
from lightning_normdyn.tasks.quiet import quiet_lightning

CUT = ".* of the texts are longer than the encoder takes"
QUIET = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def world(norms, seed=0, queries=150, documents=600, dim=12):
    """Queries near one document each; ``norms(count, is_relevant)`` are those of documents."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(documents, dim, generator=generator), dim=1)
    answers = torch.randperm(documents, generator=generator)[:queries]
    asked = directions[answers] + 0.25 * torch.randn(queries, dim, generator=generator)
    is_relevant = torch.zeros(documents, dtype=torch.bool)
    is_relevant[answers] = True
    lengths = norms(torch.randn(documents, generator=generator), is_relevant)
    judged = Judgements(torch.arange(queries), answers, torch.ones(queries))
    return Encoded(asked, directions * lengths[:, None], judged)


def question_of(encoded):
    sweep = sweep_alpha(encoded.queries, encoded.documents, encoded.judgements)
    return NormQuestion.of(encoded, sweep, temperature=0.05)


@pytest.mark.parametrize(
    ("norms", "opening"),
    [
        (lambda noise, relevant: 1 + 0.3 * relevant + 0.05 * noise.clamp(-3, 3), "open"),
        (lambda noise, _: (0.3 * noise).exp(), "narrow"),
        (lambda noise, _: 3 + 0.001 * noise, "closed"),
        (lambda noise, _: torch.ones(len(noise)), "closed"),
    ],
    ids=["norms carry relevance", "norms carry nothing", "norms hardly differ", "unit length"],
)
@pytest.mark.parametrize("seed", range(3))
def test_planted_worlds_are_told_apart(norms, opening, seed):
    question = question_of(world(norms, seed))
    assert question.opening == opening
    assert question.sentences()[0].startswith(
        f"Which norms to keep is {'an' if opening == 'open' else 'a'} {opening} question"
    )
    assert all(
        math.isfinite(question.numbers()[name]) for name in ("norm_share", "best_exponent_gain", "temperature_dot")
    )


@pytest.mark.exhaustive
def test_of_a_hundred_worlds_ninety_five_are_told_apart():
    openings = {
        name: [question_of(world(norms, seed)).opening for seed in range(100)]
        for name, norms in {
            "relevance": lambda noise, relevant: 1 + 0.3 * relevant + 0.05 * noise.clamp(-3, 3),
            "nothing": lambda noise, _: (0.3 * noise).exp(),
        }.items()
    }
    assert openings["relevance"].count("open") >= 95
    assert openings["nothing"].count("open") <= 5
    assert "closed" not in openings["nothing"]


def test_few_queries_leave_it_unclear():
    few = question_of(world(lambda noise, _: (0.3 * noise).exp(), queries=12))
    assert few.opening == "unclear"
    assert few.sentences()[0] == (
        "Whether it is an open question for this encoder which norms to keep, 12 queries cannot tell: they are too few "
        "to bound what an exponent of the norm may gain of ndcg@10."
    )


def test_numbers_are_those_of_plain_loops():
    encoded = world(lambda noise, _: (0.3 * noise).exp())
    question = question_of(encoded)
    queries, documents = (side.double().tolist() for side in encoded.pairs())

    def score(q, d, powers):
        return sum(a * b for a, b in zip(q, d, strict=True)) / math.hypot(*q) ** powers[0] / math.hypot(*d) ** powers[1]

    tables = {
        name: [[score(q, d, powers) for d in documents] for q in queries] for name, powers in NORMALIZATIONS.items()
    }

    def spread(table):
        others = [[s for j, s in enumerate(row) if j != i] for i, row in enumerate(table)]
        return sum(sum((s - sum(row) / len(row)) ** 2 for s in row) / len(row) for row in others) / len(others)

    for name, table in tables.items():
        expected = 0.05 * math.sqrt(spread(table) / spread(tables["cosine"]))
        assert question.temperatures[name] == pytest.approx(expected, rel=1e-5), name
    correlations = []
    for q in encoded.queries.double().tolist():  # of all documents, which are 600: every second one
        rows = [
            [score(q, d, NORMALIZATIONS[name]) for d in encoded.documents[::2].tolist()] for name in ("cosine", "qnorm")
        ]
        correlations.append(float(torch.corrcoef(torch.tensor(rows, dtype=torch.float64))[0, 1]))
    assert question.share == pytest.approx(1 - (sum(correlations) / len(correlations)) ** 2, rel=1e-5)


def test_headroom_is_that_of_the_best_exponent():
    alphas = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    values = torch.rand(3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values[0] += 0.2
    values[1, 3] = math.nan
    room = headroom_of(AlphaSweep(alphas, values, "ndcg@10"))
    kept = [n for n in range(40) if n != 3]
    means = [sum(float(row[n]) for n in kept) / 39 for row in values]
    assert (room.exponent, room.queries) == (-1.0, 39)
    assert room.gain == pytest.approx(means[0] - means[1])
    assert room.each == pytest.approx(sum(float(values[:, n].max() - values[1, n]) for n in kept) / 39)
    assert room.held_out.low <= room.held_out.value <= room.gain + 0.05
    assert math.isnan(headroom_of(AlphaSweep(alphas, values, "spearman")).each)
    with pytest.raises(ValueError, match=r"^sweep: expected a query with a measure"):
        headroom_of(AlphaSweep(alphas, torch.full((3, 2), math.nan), "ndcg@10"))


@pytest.mark.parametrize(
    ("kind", "data"),
    [(Retrieval, lambda: RetrievalData(batch_size=64, bm25=False)), (Sts, lambda: StsData(batch_size=64))],
)
def test_a_model_is_measured_as_validation_measures_it(tmp_path, capsys, kind, data):
    torch.manual_seed(0)
    task = kind(encoder=SmallTextEncoder(dim=16, buckets=500), normalization="qnorm")
    module, start = data(), StartingPoint()
    options = {"accelerator": "cpu", "max_steps": 1, "num_sanity_val_steps": 0, "log_every_n_steps": 1, **QUIET}
    with quiet_lightning(CUT):
        validation = Trainer(logger=False, **options)
        validation.validate(task, datamodule=module, verbose=False)
        value = float(validation.callback_metrics[f"val/{task.headline}"])
        trainer = Trainer(logger=CSVLogger(tmp_path), callbacks=[start], limit_val_batches=0, **options)
        trainer.fit(task, datamodule=module)
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row.get(f"start/{task.headline}")]
    assert row["step"] == "0"
    assert float(row[f"start/{task.headline}"]) == pytest.approx(value, abs=1e-6)
    assert float(row["start/best_exponent_gain"]) == pytest.approx(start.question.headroom.gain)
    printed = capsys.readouterr().out
    assert f"Before training, scored by qnorm: {task.headline} {value:.4f}" in printed
    assert all(sentence in printed for sentence in start.question.sentences())


def test_training_is_the_same_to_the_bit_and_a_part_is_said(tmp_path, capsys):
    weights = []
    for callbacks in ([], [StartingPoint(queries=20, documents=50)]):
        torch.manual_seed(0)
        task = Retrieval(encoder=SmallTextEncoder(dim=16, buckets=500, dropout=0.3))
        with quiet_lightning():
            trainer = Trainer(
                accelerator="cpu", max_steps=3, limit_val_batches=0, logger=False, callbacks=callbacks, **QUIET
            )
            trainer.fit(task, datamodule=RetrievalData(batch_size=32, bm25=False))
        weights.append(task.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (
        "(of 20 of 283 queries and 50 of 2,838 documents, so that it is no measure of the whole)"
        in capsys.readouterr().out
    )


def test_a_task_of_other_things_is_refused():
    with (
        quiet_lightning(),
        pytest.raises(ValueError, match=r"^StartingPoint: expected a task of texts, .* got FewShot"),
    ):
        Trainer(logger=False, callbacks=[StartingPoint()], max_steps=1, **QUIET).fit(
            FewShot(), datamodule=FewShotData()
        )


class Clocked(LightningModule):
    """By its own clock a step takes 10 ms, one of the first two a second, and a validation 200 ms."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seconds = 0.0

    def training_step(self, batch, batch_idx):
        self.seconds += 0.01 if batch_idx > 1 else 1.0
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        self.seconds += 0.2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def timed(model, **options):
    """Trains on twelve batches; what timed the steps, and the trainer."""
    timer, loader = StepTime(warmup_steps=2, steps=6), torch.utils.data.DataLoader(torch.zeros(12, 1))
    with quiet_lightning():
        trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, callbacks=[timer], **QUIET, **options)
        trainer.fit(model, loader, loader)
    return timer, trainer


def test_a_step_takes_what_it_takes_without_evaluations(capsys, monkeypatch):
    model = Clocked()
    monkeypatch.setattr(step_time, "time", SimpleNamespace(perf_counter=lambda: model.seconds))
    timer, _ = timed(model, val_check_interval=4, limit_val_batches=1)
    assert timer.seconds == pytest.approx(0.01)
    printed = capsys.readouterr().out
    assert "A step takes 0.01 s (mean of 6); 12 steps take 0.12 s, evaluations not counted." in printed


class Alternation(Clocked):
    """Two optimizer steps a batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        for _ in range(2):
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()


@pytest.mark.parametrize(("max_steps", "rest"), [(-1, "; 12 steps take "), (24, ", evaluations not counted.")])
def test_a_step_of_manual_optimization_is_a_batch(capsys, monkeypatch, max_steps, rest):
    model = Alternation()
    monkeypatch.setattr(step_time, "time", SimpleNamespace(perf_counter=lambda: model.seconds))
    timer, trainer = timed(model, max_steps=max_steps, limit_val_batches=0)
    assert trainer.global_step == 24
    assert timer.seconds == pytest.approx(0.02)
    assert f"A step takes 0.02 s (mean of 6){rest}" in capsys.readouterr().out
