"""The token task: which pairs are drawn, how the stream resumes, what the loss is, what trains it."""

import math
from collections import Counter
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from lightning_normdyn.tasks import TokenContrast, TokenPairs
from lightning_normdyn.tasks.tokens.token_pairs import PairStream, SkipGrams

# pytorch_lightning 2.6 under torch 2.10 or later
pytestmark = pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")

SIDES = ("queries", "documents")
DOCUMENTS = [[3, 1, 4, 1, 5], [9], [], [2, 6, 2, 2, 6, 5, 3]]


def pairs_by_brute_force(documents, window):
    return Counter(
        (centre, context)
        for document in documents
        for i, centre in enumerate(document)
        for j, context in enumerate(document)
        if i != j and abs(i - j) <= window
    )


def loss_by_loops(queries, documents, temperature, gammas):
    def score(x, y):
        return sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) ** gammas[0] / math.hypot(*y) ** gammas[1]

    total = 0.0
    for i, query in enumerate(queries):
        logits = [score(query, document) / temperature for document in documents]
        total += math.log(sum(map(math.exp, logits))) - logits[i]
    return total / len(queries)


@pytest.fixture
def text(tmp_path):
    words = [a + b for a in "abcdefghij" for b in "klmnop"]
    generator = torch.Generator().manual_seed(0)
    file = tmp_path / "text.txt"
    lines = [" ".join(words[k] for k in torch.randint(60, (40,), generator=generator)) for _ in range(40)]
    file.write_text("\n\n".join(lines))
    return str(file)


def trainer(folder, **options):
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"enable_checkpointing": False, **options},
    )


@pytest.mark.parametrize("window", [1, 2, 3, 6])
def test_every_pair_of_a_window_is_numbered_once(window):
    pairs = SkipGrams(DOCUMENTS, window=window)
    centres, contexts = pairs.take(torch.arange(len(pairs)))
    found = Counter(zip(centres.tolist(), contexts.tolist(), strict=True))
    assert found == pairs_by_brute_force(DOCUMENTS, window)
    assert found != pairs_by_brute_force(DOCUMENTS, window - 1)


def test_drawing_is_uniform_over_pairs():
    pairs = SkipGrams(DOCUMENTS, window=2)
    drawn = Counter(zip(*map(torch.Tensor.tolist, pairs.draw(200_000, torch.Generator().manual_seed(0))), strict=True))
    expected = pairs_by_brute_force(DOCUMENTS, 2)
    assert drawn.keys() == expected.keys()
    for pair, times in expected.items():
        share = times / expected.total()
        assert abs(drawn[pair] / drawn.total() - share) < 5 * math.sqrt(share / drawn.total())


def test_pairs_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"^window: "):
        SkipGrams(DOCUMENTS, window=0)
    with pytest.raises(ValueError, match=r"^text: no document holds two words"):
        SkipGrams([[1], [], [2]], window=3)


def test_stream_is_its_seed_and_rank_and_leaves_the_global_generator_alone():
    pairs = SkipGrams(DOCUMENTS, window=3)

    def first(**options):
        return next(iter(PairStream(pairs, batch_size=64, **options)))["queries"].tolist()

    before = torch.get_rng_state()
    assert first(seed=1) == first(seed=1)
    assert len({tuple(first(seed=seed, rank=rank)) for seed in (0, 1) for rank in (0, 1)}) == 4
    assert torch.equal(before, torch.get_rng_state())


def test_stream_goes_on_where_it_was_left():
    pairs = SkipGrams(DOCUMENTS, window=3)
    whole, begun, resumed = (PairStream(pairs, batch_size=8, steps_per_epoch=5) for _ in range(3))
    expected = [batch["queries"].tolist() for _ in range(2) for batch in whole]
    found = [batch["queries"].tolist() for batch, _ in zip(begun, range(3), strict=False)]
    begun.position = 3  # zip drew one more than it kept
    resumed.load_state_dict(begun.state_dict())
    found += [batch["queries"].tolist() for batch in resumed] + [next(iter(resumed))["queries"].tolist()]
    assert found == expected[:9]


def test_vocabulary_smaller_than_asked_is_what_the_table_gets(text):
    data = TokenPairs([text], vocabulary_size=1000)
    assert data.table_rows == 60
    assert TokenPairs([text], vocabulary_size=7).table_rows == 7
    batch = next(iter(data.train_dataloader()))
    assert batch["queries"].shape == batch["documents"].shape == (256,)
    assert int(batch["queries"].max()) < 60


def test_each_rank_draws_its_own_pairs(text):
    def first_batch(rank):
        data = TokenPairs([text])
        data.trainer = SimpleNamespace(global_rank=rank)
        return next(iter(data.train_dataloader()))["queries"]

    assert torch.equal(first_batch(1), first_batch(1))
    assert not torch.equal(first_batch(0), first_batch(1))


@pytest.mark.parametrize("name", ["vocabulary_size", "window", "batch_size", "steps_per_epoch"])
def test_data_names_the_argument_that_is_wrong(name):
    with pytest.raises(ValueError, match=rf"^{name}: expected a whole number, 1 or more, got 0"):
        TokenPairs(**{name: 0})


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"table_rows": 0}, "table_rows"),
        ({"table_rows": None}, "table_rows"),
        ({"table_rows": 5, "dim": -1}, "dim"),
        ({"table_rows": 5, "temperature": 0.0}, "temperature"),
        ({"table_rows": 5, "optimizer": "lion"}, "optimizer"),
        ({"table_rows": 5, "schedule": "linear"}, "schedule"),
    ],
)
def test_model_names_the_argument_that_is_wrong(options, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        TokenContrast(**options)


@pytest.mark.parametrize("normalization", ["cosine", "qnorm", "learnable"])
def test_loss_is_the_contrast_of_looked_up_rows(normalization):
    module = TokenContrast(20, dim=4, normalization=normalization, learnable_temperature=True).double()
    batch = {name: torch.randint(20, (6,), generator=torch.Generator().manual_seed(0)) for name in SIDES}
    queries, documents = (module.table.weight[batch[name]].tolist() for name in SIDES)
    gammas = [float(gamma.detach()) for gamma in module.contrast.exponents]
    expected = loss_by_loops(queries, documents, 0.1, gammas)
    module.log = Mock()
    assert module.training_step(batch).item() == pytest.approx(expected, rel=1e-7)
    module.schedule = "constant"
    table, *of_loss = module.configure_optimizers().param_groups
    assert table["weight_decay"] > 0
    assert [group["weight_decay"] for group in of_loss] == [0.0]


@pytest.mark.parametrize(("optimizer", "peak"), [("sgd", 1.0), ("adamw", 1e-2)])
def test_cosine_schedule_runs_from_the_peak_to_a_tenth(tmp_path, text, optimizer, peak):
    module = TokenContrast(60, dim=4, optimizer=optimizer)
    run = trainer(tmp_path, max_steps=6)
    run.fit(module, TokenPairs([text], batch_size=8, steps_per_epoch=4))
    assert run.optimizers[0].param_groups[0]["initial_lr"] == peak
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(peak / 10)


def test_constant_schedule_and_own_rates(tmp_path, text):
    module = TokenContrast(60, dim=4, schedule="constant", lr=0.3, weight_decay=0.02)
    run = trainer(tmp_path, max_steps=2)
    run.fit(module, TokenPairs([text], batch_size=8))
    group = run.optimizers[0].param_groups[0]
    assert (group["lr"], group["weight_decay"], group["momentum"]) == (0.3, 0.02, 0.0)
    with pytest.raises(ValueError, match=r"^schedule: 'cosine' needs to know where training ends"):
        trainer(tmp_path, max_epochs=-1).fit(TokenContrast(60), TokenPairs([text]))


class Saver(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, *args):
        trainer.save_checkpoint(self.folder / f"step-{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, *args):
        trainer.save_checkpoint(self.folder / f"epoch-{trainer.current_epoch}.ckpt")


@pytest.mark.parametrize("left_at", ["step-3", "step-5", "epoch-0", "step-7"])
def test_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path, text, left_at):
    def fit(checkpoint=None, callbacks=()):
        module = TokenContrast(60, dim=4)
        data = TokenPairs([text], batch_size=8, steps_per_epoch=5)
        trainer(tmp_path, callbacks=list(callbacks), max_epochs=2).fit(module, data, ckpt_path=checkpoint)
        return module.table.weight.detach()

    whole = fit(callbacks=[Saver(tmp_path)])
    assert torch.equal(fit(tmp_path / f"{left_at}.ckpt"), whole)
    assert not torch.equal(fit(), whole)
