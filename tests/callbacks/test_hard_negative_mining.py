import contextlib
import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from mining_model import DOCUMENTS, QUERIES, Snapshots, Towers, inputs, mining_source
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_normdyn.callbacks import HardNegativeMining
from lightning_normdyn.datasets.formats import read_hard_negatives
from lightning_normdyn.retrieval import MiningSource

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*queries have fewer than", "ignore:Checkpoint directory"
)


def towers(**options):
    torch.manual_seed(1)
    return Towers(mining_source(), **options)


@pytest.mark.parametrize("options", [{"relative_margin": 0.05}, {"range_min": 1, "max_score": 0.6}], ids=str)
def test_the_table_has_what_the_model_finds_hard_at_every_refresh(fit, options):
    model, snapshots = towers(), Snapshots(**options)
    mining = HardNegativeMining(every_n_steps=4, batch_size=7, **{"relative_margin": None} | options)
    trainer = fit(model, None, mining, snapshots, max_steps=10, max_epochs=-1)
    for step in range(10):
        expected = snapshots.expected[step // 4 * 4].indices
        has_all = (expected >= 0).all(1)
        assert torch.equal(snapshots.tables[step][has_all], expected[has_all])
        assert ((snapshots.tables[step] == expected) | (expected < 0)).all()
    assert not torch.equal(snapshots.tables[0], snapshots.tables[4])
    logged = trainer.callback_metrics
    tables = [snapshots.tables[step] for step in (4, 8)]
    share = sum(place in tables[0][query].tolist() for query, row in enumerate(tables[1].tolist()) for place in row)
    assert float(logged["normdyn/hard_negatives/overlap"]) == pytest.approx(share / tables[1].numel())
    last = snapshots.expected[8]
    assert float(logged["normdyn/hard_negatives/false_negative_share"]) == pytest.approx(last.false_negative_share)
    assert float(logged["normdyn/hard_negatives/lacking_share"]) == pytest.approx(len(last.lacking) / QUERIES)
    assert float(logged["normdyn/hard_negatives/score"]) == pytest.approx(
        last.statistics()["negative"]["mean"], rel=1e-5
    )


def test_coordinates_that_no_prefix_trains_do_not_count(fit):
    """The widest prefix is all that a Matryoshka loss has trained; what lies beyond is as it was drawn."""
    model, snapshots, whole = towers(prefixes=[1, 2]), Snapshots(width=2), Snapshots()
    mining = HardNegativeMining(every_n_steps=4, relative_margin=None)
    fit(model, None, mining, snapshots, whole, max_steps=6, max_epochs=-1)
    for step in (0, 4):
        expected = snapshots.expected[step].indices
        has_all = (expected >= 0).all(1)
        assert torch.equal(snapshots.tables[step][has_all], expected[has_all])
        assert not torch.equal(expected[has_all], whole.expected[step].indices[has_all])


def test_training_sees_the_negatives_of_its_step_and_no_positive_or_stranger(fit):
    model, snapshots = towers(), Snapshots()
    fit(model, None, HardNegativeMining(every_n_steps=3), snapshots, max_steps=9, max_epochs=-1)
    positives = inputs()[2]
    assert len(model.seen) == 9
    for step, (queries, negatives) in enumerate(model.seen):
        assert negatives == snapshots.tables[step][queries].tolist()
        for query, row in zip(queries, negatives, strict=True):
            assert len(set(row)) == 2
            assert not set(row) & set(positives[query])


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_nothing_but_the_negatives_tells_that_it_mined(fit, precision):
    weights, states = [], []
    for callbacks in ([], [HardNegativeMining(every_n_steps=2, save=False)]):
        model = towers(ignores_negatives=True)
        pl.seed_everything(3)
        fit(model, None, *callbacks, max_steps=8, max_epochs=-1, precision=precision)
        weights.append(model.state_dict())
        states.append((torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()))
        assert model.training
        assert not model.frozen.training
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert states[0] == states[1]


def test_the_precision_of_the_trainer_encodes(fit):
    mining, model, dtypes = HardNegativeMining(every_n_steps=50), towers(), []
    model.net[-1].register_forward_hook(lambda module, _, output: dtypes.append((output.dtype, module.training)))
    fit(model, None, mining, max_steps=1, max_epochs=-1, precision="bf16-mixed")
    assert set(dtypes) == {(torch.bfloat16, False), (torch.bfloat16, True)}


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_train_with_negatives_from_the_first_batch_on(fit, workers):
    model = towers(workers=workers)
    fit(model, None, HardNegativeMining(every_n_steps=3), max_steps=6, max_epochs=-1)
    assert all(negatives[0] for _, negatives in model.seen)


def test_workers_see_what_is_mined_in_the_midst_of_their_epoch(fit):
    model, snapshots = towers(workers=1, batch_size=1), Snapshots()
    fit(model, None, HardNegativeMining(every_n_steps=3, relative_margin=None), snapshots, max_steps=24, max_epochs=-1)
    lagging = []
    for step, (queries, negatives) in enumerate(model.seen[12:], 12):
        recent = [snapshots.tables[earlier][queries].tolist() for earlier in range(step - 6, step + 1)]
        assert negatives in recent
        lagging.append(negatives == snapshots.tables[0][queries].tolist())
    assert not all(lagging)


def test_each_mining_is_saved_by_the_ids_of_the_source(fit, tmp_path):
    mining = HardNegativeMining(every_n_steps=4, start_step=2, relative_margin=None)
    model, snapshots = towers(), Snapshots()
    fit(model, None, mining, snapshots, max_steps=10, max_epochs=-1, logger=False)
    folder = tmp_path / "hard_negatives"
    assert sorted(file.name for file in folder.iterdir()) == ["step-000002.jsonl", "step-000006.jsonl"]
    rows = list(read_hard_negatives(folder / "step-000006.jsonl"))
    expected = snapshots.expected[6]
    assert [(row.query, row.positive) for row in rows] == [
        (f"q{query}", f"d{document}") for query, document in zip(*(c.tolist() for c in expected.positives), strict=True)
    ]
    for row in rows:
        assert list(row.negatives) == [f"d{place}" for place in expected.indices[int(row.query[1:])].tolist()]
        assert list(row.scores[1:]) == pytest.approx(expected.scores[int(row.query[1:])].tolist(), abs=1e-6)
    assert mining.hard_negatives is not None
    assert model.seen[0][1][0] == []  # before the first mining


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_resumed_run_goes_on_with_what_was_saved(fit, tmp_path, is_lost):
    def run(steps, **options):
        model, mining = towers(), HardNegativeMining(every_n_steps=4)
        saving = ModelCheckpoint(tmp_path / "checkpoints", filename="{step}", every_n_train_steps=6, save_top_k=-1)
        fit(model, None, mining, saving, max_steps=steps, max_epochs=-1, enable_checkpointing=True, **options)
        return model

    pl.seed_everything(5)
    run(6, logger=False)
    checkpoint = tmp_path / "checkpoints" / "step=6.ckpt"
    tables = []
    files = tmp_path / "hard_negatives"
    earlier = {row.query: row.negatives for row in read_hard_negatives(files / "step-000004.jsonl")}
    if is_lost:
        for file in files.iterdir():
            file.unlink()
        with pytest.warns(UserWarning, match=r"hard negatives of step 4 cannot be read back \(.*nothing of that name"):
            model = run(8, ckpt_path=checkpoint, logger=False, weights_only=True)
    else:
        model = run(8, ckpt_path=checkpoint, logger=False, weights_only=True)
    for queries, negatives in model.seen[:2]:
        tables += zip(queries, negatives, strict=True)
    same = [tuple(f"d{place}" for place in row) == earlier[f"q{query}"] for query, row in tables]
    complete = [len(earlier[f"q{query}"]) == 2 for query, _ in tables]
    if is_lost:
        assert not all(value for value, whole in zip(same, complete, strict=True) if whole)
        assert sorted(file.name for file in files.iterdir()) == ["step-000006.jsonl"]
    else:
        assert all(value for value, whole in zip(same, complete, strict=True) if whole)
        assert any(complete)
        assert sorted(file.name for file in files.iterdir()) == ["step-000000.jsonl", "step-000004.jsonl"]


def test_interrupted_and_whole_runs_end_with_the_same_weights(fit, tmp_path):
    def run(steps, folder, **options):
        pl.seed_everything(5)
        model = towers(batch_size=QUERIES)  # a step an epoch, so that the order of batches does not depend on the past
        saving = ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=6, save_top_k=-1)
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        mining = HardNegativeMining(every_n_steps=4)
        fit(model, None, mining, saving, max_steps=steps, max_epochs=-1, enable_checkpointing=True, **options)
        return model.state_dict()

    whole = run(11, "whole", logger=False)
    run(6, "part", logger=False)
    resumed = run(11, "part", logger=False, ckpt_path=tmp_path / "part" / "step=6.ckpt", weights_only=True)
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, rtol=1e-4, atol=1e-6)


def test_learnt_exponents_and_named_normalizations_rank(fit):
    for options, normalization, expected in [
        ({"normalization": "dot"}, None, {"normalization": "dot"}),
        ({"normalization": "dot"}, "dnorm", {"normalization": "dnorm"}),
        (
            {"normalization": "learnable", "learnable_temperature": True},
            None,
            {"normalization": "learnable", "gamma_query": 0.5, "gamma_document": 0.5},
        ),
    ]:
        model = towers(lr=1e-9, **options)
        snapshots = Snapshots(relative_margin=0.05, **expected)
        mining = HardNegativeMining(every_n_steps=50, normalization=normalization)
        with pytest.warns() if "learnable" in expected["normalization"] else contextlib.nullcontext():
            fit(model, None, mining, snapshots, max_steps=1, max_epochs=-1)
        assert torch.equal(mining.hard_negatives.indices, snapshots.expected[0].indices)


class Scale(pl.Callback):
    """Multiplies the last layer after a step."""

    def __init__(self, step, factor):
        self.step, self.factor = step, factor

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            self.weight = pl_module.net[-1].weight.detach().clone()
            pl_module.net[-1].weight.data.mul_(self.factor)


class Restore(Scale):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            pl_module.net[-1].weight.data.copy_(self.factor.weight)


def test_embeddings_that_are_not_finite_leave_the_negatives_as_they_are(fit):
    model, spoil, snapshots = towers(), Scale(2, torch.nan), Snapshots()
    mining = HardNegativeMining(every_n_steps=2)
    with pytest.warns(UserWarning, match="at step 2 are NaN or infinite, so the hard negatives stay as they"):
        fit(model, None, spoil, mining, Restore(2, spoil), snapshots, max_steps=5, max_epochs=-1)
    assert torch.equal(snapshots.tables[2], snapshots.tables[0])
    assert not torch.equal(snapshots.tables[4], snapshots.tables[0])


def test_embeddings_that_are_not_finite_at_first_leave_nothing_to_train_with(fit):
    model = towers()
    model.net[-1].weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="at step 0 are NaN or infinite, and there are no earlier hard negatives"):
        fit(model, None, HardNegativeMining(every_n_steps=2), max_steps=2, max_epochs=-1)


def test_learnt_exponents_are_read_without_a_word(fit, recwarn):
    torch.set_warn_always(True)  # not once a process
    try:
        model = towers(normalization="learnable", learnable_temperature=True)
        fit(model, None, HardNegativeMining(every_n_steps=2), max_steps=2, max_epochs=-1)
    finally:
        torch.set_warn_always(False)
    assert not [str(warning.message) for warning in recwarn if "requires_grad" in str(warning.message)]


def test_what_cannot_be_mined_is_said_before_anything_is_trained(fit):
    class Other(pl.LightningModule):
        def training_step(self, batch, batch_idx):
            raise AssertionError

        def configure_optimizers(self):
            return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])

    with pytest.raises(ValueError, match=r"^source: expected a MiningSource, or a data module or module whose"):
        fit(Other(), [torch.ones(1)], HardNegativeMining())
    with pytest.raises(ValueError, match=r"^Other: expected a method encode_queries"):
        fit(Other(), [torch.ones(1)], HardNegativeMining(source=mining_source()))
    with pytest.raises(ValueError, match=r"^num_negatives: expected at most 45, the documents left"):
        mining_source(num_negatives=46)
    with pytest.raises(ValueError, match=r"^range_max: expected range_min"):
        fit(towers(), None, HardNegativeMining(source=mining_source(5), range_max=3))


def test_missing_negatives_are_drawn_from_what_is_left_and_never_forbidden():
    texts = [f"text {place % 40}" for place in range(DOCUMENTS)]  # the last seven are copies
    positives = [[0, 45], [1], list(range(2, 39))]
    source = MiningSource(
        ["a", "b", "c"], texts, positives, num_negatives=2, excluded_pairs=(torch.tensor([1, 1]), torch.tensor([3, 44]))
    )
    counts = torch.zeros(3, DOCUMENTS)
    for seed in range(300):
        assert source.update(torch.tensor([[7, -1], [-1, -1], [-1, -1]]), seed=seed) == 3
        rows = source.negatives.indices.tolist()
        assert rows[0][0] == 7
        assert all(len(set(row)) == 2 for row in rows)
        counts.scatter_add_(1, source.negatives.indices, torch.ones(3, 2))
    drawn = [set(row.nonzero().flatten().tolist()) for row in counts]
    assert drawn == [set(range(40)) - {0, 5}, set(range(40)) - {1, 3, 4}, {0, 1, 39}]
    allowed = source.allowed(torch.tensor([[45, 5], [44, 9], [-1, 38]]))
    assert allowed.tolist() == [[-1, -1], [-1, 9], [-1, -1]]
