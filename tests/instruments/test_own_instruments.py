"""Instruments of a user's own: a class outside the package that measures something new, wherever vectors come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import yaml
from effective_rank import EffectiveRank
from jsonargparse import ArgumentParser
from pytorch_lightning import Callback
from small_models import DIM, Lit, NoisyModel, PairTable, TwoTowers, pair_batches, seeded

from lightning_normdyn.callbacks import GradientSplitMonitor, NormDynamics
from lightning_normdyn.history import read_run
from lightning_normdyn.instruments import QUANTITIES, Instrument, NormObserver

STEPS, EVERY = 12, 5
DUE = [1, 5, 10]
TABLE, ENCODER = "net.table.weight", "net.encoder"


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.5, weight_decay=0.01)


def probe_inputs():
    return torch.randn(7, DIM, generator=torch.Generator().manual_seed(3))


def rank_of_gram(vectors):
    """The oracle: from the eigenvalues of the Gram matrix, in float64 and a plain loop."""
    rows = np.asarray(vectors.detach(), dtype=np.float64)
    gram = rows.T @ rows if len(rows) >= rows.shape[1] else rows @ rows.T
    spectrum = [math.sqrt(max(0.0, value)) for value in np.linalg.eigvalsh(gram)]
    shares = [value / sum(spectrum) for value in spectrum]
    return math.exp(-sum(share * math.log(share) for share in shares if share > 0))


def trained_plainly(batches):
    """Effective ranks of the table, the encoder's outputs and a probe, after each step, from a plain loop."""
    net = seeded(TwoTowers)
    optimizer, outputs, ranks = sgd(net), [], {TABLE: {}, ENCODER: {}, "probe": {}}
    net.encoder.register_forward_hook(lambda *call: outputs.append(call[-1].detach().clone()))
    for step, batch in enumerate(batches, 1):
        outputs.clear()
        optimizer.zero_grad()
        net(batch).backward()
        optimizer.step()
        ranks[ENCODER][step] = rank_of_gram(torch.cat(outputs))
        ranks[TABLE][step] = rank_of_gram(net.table.weight)
        ranks["probe"][step] = rank_of_gram(net.encoder(probe_inputs()))
    return ranks


def logged_ranks(logger, target):
    return {
        step: scalars["effective_rank"] for step, scalars in logger.of(target).items() if "effective_rank" in scalars
    }


@pytest.mark.parametrize("probe", [False, True], ids=["output", "probe"])
def test_effective_rank_of_a_table_an_output_and_a_probe(fit, tmp_path, probe):
    callback = NormDynamics(
        targets=[TABLE, ENCODER],
        every_n_steps=EVERY,
        window=4,
        probe=probe_inputs() if probe else False,
        instruments=[EffectiveRank()],
    )
    batches = pair_batches(STEPS)
    trainer = fit(Lit(seeded(TwoTowers), sgd), batches, callback)
    expected = trained_plainly(batches)
    for target, source in ((TABLE, TABLE), (ENCODER, "probe" if probe else ENCODER)):
        ranks = logged_ranks(trainer.logger, target)
        assert list(ranks) == DUE
        for step, rank in ranks.items():
            assert rank == pytest.approx(expected[source][step], rel=1e-5)
        assert 1 < ranks[10] < DIM
        key = f"normdyn/{target}/effective_rank"
        assert float(trainer.callback_metrics[key]) == pytest.approx(ranks[10], rel=1e-6)
        on_disk = read_run(tmp_path)[target].quantities().to_pylist()
        assert {row["step"]: row["value"] for row in on_disk if row["quantity"] == "effective_rank"} == ranks


def test_the_oracle_can_fail():
    """The rank of centred vectors, the other option of the instrument, is another number."""
    vectors = torch.randn(20, DIM) + 1
    look = type("Look", (), {"vectors": vectors})
    assert float(EffectiveRank().measure(look)["effective_rank"]) == pytest.approx(rank_of_gram(vectors), rel=1e-6)
    assert float(EffectiveRank(centred=True).measure(look)["effective_rank"]) != pytest.approx(
        rank_of_gram(vectors), rel=1e-2
    )


def test_without_a_fit_outputs_are_measured_too(fit):
    monitor = GradientSplitMonitor(targets=[ENCODER], every_n_steps=EVERY, instruments=[EffectiveRank()])
    batches = pair_batches(STEPS)
    trainer = fit(Lit(seeded(TwoTowers), sgd), batches, monitor)
    expected = trained_plainly(batches)[ENCODER]
    ranks = logged_ranks(trainer.logger, ENCODER)
    assert ranks == pytest.approx({step: expected[step] for step in DUE}, rel=1e-5)


def test_a_cadence_of_its_own(fit):
    class Restless(EffectiveRank):
        every_n_steps = 2

    options = {"targets": [TABLE, ENCODER], "probe": probe_inputs(), "instruments": [Restless()]}
    batches = pair_batches(STEPS)
    trainer = fit(Lit(seeded(TwoTowers), sgd), batches, NormDynamics(**options))
    expected = trained_plainly(batches)
    for target, source in ((TABLE, TABLE), (ENCODER, "probe")):
        ranks = logged_ranks(trainer.logger, target)
        assert ranks == pytest.approx({step: expected[source][step] for step in [1, 2, 4, 6, 8, 10, 12]}, rel=1e-5)


class Killed(Callback):
    """Saves a checkpoint after a step and ends the run."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


def test_state_survives_a_resume(fit, tmp_path):
    """The number of looks goes on from where it stood, and every number is that of a run in one go."""

    def dynamics():
        options = {"targets": [TABLE, ENCODER], "every_n_steps": EVERY, "probe": probe_inputs(), "window": 4}
        return NormDynamics(**options, instruments=[EffectiveRank()])

    def run(callbacks, **options):
        return fit(Lit(seeded(TwoTowers), sgd), pair_batches(STEPS), *callbacks, max_epochs=2, **options)

    whole = run([dynamics()])
    checkpoint = tmp_path / "killed.ckpt"
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run([dynamics(), Killed(14, checkpoint)])
    resumed = run([dynamics()], ckpt_path=checkpoint)
    for target in (TABLE, ENCODER):
        later = {step: scalars for step, scalars in whole.logger.of(target).items() if step > 14}
        assert resumed.logger.of(target) == later
        assert later[20]["effective_rank_looks"] == 5  # 1, 5, 10, 15, 20


class Careless(Instrument):
    """Draws random numbers and writes over what it is shown."""

    quantities = ("noise",)
    every_n_steps = 1

    def measure(self, look):
        look.vectors.zero_()
        return {"noise": torch.rand(()) + np.random.rand()}


def test_an_instrument_cannot_change_the_training(fit):
    """Weights and random states are bit-identical, whatever it does with what it is shown."""

    def weights(*callbacks):
        torch.manual_seed(0)
        module = Lit(seeded(NoisyModel), sgd)
        fit(module, pair_batches(30), *callbacks, logger=False)
        return module.state_dict() | {"random state": torch.random.get_rng_state()}

    alone = weights()
    options = {"targets": [TABLE, "net.encoder", "net.linear.weight"], "save_history": False}
    observed = weights(NormDynamics(**options, instruments=[Careless()]))
    assert observed.keys() == alone.keys()
    assert all(torch.equal(observed[name], alone[name]) for name in alone)


def test_it_is_built_from_yaml(fit):
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    own = {"class_path": "effective_rank.EffectiveRank", "init_args": {"centred": True}}
    entry = {"class_path": "lightning_normdyn.callbacks.NormDynamics", "init_args": {"instruments": [own]}}
    config = parser.parse_string(yaml.safe_dump({"callbacks": [entry]}))
    (callback,) = (getattr(parser, "instantiate", None) or parser.instantiate_classes)(config).callbacks
    assert callback.options["instruments"][0].centred is True
    trainer = fit(Lit(seeded(PairTable), sgd), pair_batches(2), callback)
    assert trainer.logger.of(TABLE)[1]["effective_rank"] > 1


def test_the_plain_observer_takes_it_too():
    net, logged = seeded(PairTable), {}
    optimizer = sgd(net)
    with NormObserver(
        net, optimizer, log=lambda metrics, step: logged.update({step: metrics}), instruments=[EffectiveRank()]
    ):
        optimizer.zero_grad()
        net(pair_batches(1)[0]).backward()
        optimizer.step()
    rank = logged[1]["normdyn/table.weight/effective_rank"]
    assert rank == pytest.approx(rank_of_gram(net.table.weight), rel=1e-5)


def measuring(*quantities, values=None, **attributes):
    """An instrument that claims to measure these quantities."""

    class Own(Instrument):
        def measure(self, look):
            return values

    Own.quantities = quantities
    for name, value in attributes.items():
        setattr(Own, name, value)
    return Own()


@pytest.mark.parametrize("quantity", ["norm_mean", "forecast_skill", "temperature"])
def test_the_name_of_a_built_in_quantity_is_refused(quantity):
    assert quantity in QUANTITIES
    with pytest.raises(ValueError, match=rf"^instruments: Own measures '{quantity}', which is a built-in quantity; "):
        NormDynamics(instruments=[measuring("fine", quantity)])


@pytest.mark.parametrize(
    ("instruments", "message"),
    [
        ([measuring("a"), measuring("a")], "instruments: Own measures 'a', which Own measures too"),
        ([measuring()], r"instruments: expected Own.quantities to be a tuple of names without '/', got \(\)"),
        ([measuring("a/b")], "without '/'"),
        (
            [measuring("a", every_n_steps=0)],
            r"instruments: Own.every_n_steps: expected a whole number, 1 or more, got 0",
        ),
        ([len], "instruments: expected subclasses of lightning_normdyn.instruments.Instrument, got <built-in"),
        ([EffectiveRank], r"^instruments: expected objects, got the class EffectiveRank; write EffectiveRank\(\)$"),
        (measuring("a"), "instruments: expected a list of instruments, got"),
    ],
)
def test_what_is_no_instrument_is_refused(instruments, message):
    with pytest.raises(ValueError, match=message):
        NormDynamics(instruments=instruments)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"b": 1.0}, r"instruments: Own measured 'b', which is not among its quantities \('a',\); name it there"),
        (None, r"^instruments: expected Own.measure to return a mapping of quantities \('a',\) to numbers, got None$"),
        ("much", r"expected Own.measure to return a mapping of quantities \('a',\) to numbers, got 'much'$"),
        ({"a": None}, r"^instruments: expected one number for 'a' of Own, got None; leave out what does not exist"),
        ({"a": "3"}, r"^instruments: expected one number for 'a' of Own, got '3'; leave out what does not exist"),
        ({"a": torch.ones(3)}, r"instruments: expected one number for 'a' of Own, got shape \(3,\)"),
    ],
)
def test_what_it_measures_must_be_a_number_by_a_name_it_gave(fit, values, message):
    callback = NormDynamics(instruments=[measuring("a", values=values)])
    with pytest.raises(ValueError, match=message):
        fit(Lit(seeded(PairTable), sgd), pair_batches(2), callback)


def test_a_missing_measure_names_the_class(fit):
    class Empty(Instrument):
        quantities = ("a",)

    with pytest.raises(NotImplementedError, match=r"Empty does not say how it measures: write measure\(self, look\)"):
        fit(Lit(seeded(PairTable), sgd), pair_batches(2), NormDynamics(instruments=[Empty()]))


def test_a_number_that_does_not_exist_is_left_out(fit):
    callback = NormDynamics(instruments=[measuring("a", "b", values={"a": float("nan"), "b": torch.tensor([[2]])})])
    trainer = fit(Lit(seeded(PairTable), sgd), pair_batches(2), callback)
    scalars = trainer.logger.of(TABLE)[1]
    assert "a" not in scalars
    assert scalars["b"] == 2
