"""Without Lightning: a plain loop under a NormObserver gives Lightning's numbers, and its own weights."""

from __future__ import annotations

import copy

import pytest
import torch
from loops import SETTINGS, TABLE, Contrasted, Named, assert_alike, by_lightning, falling, plainly
from small_models import pair_batches, seeded

from lightning_normdyn.history import read_run
from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.instruments.planned_rates import LRSchedule, run_ahead

STEPS = 60


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9, weight_decay=0.02)


def adamw(net):
    table, *others = net.parameters()  # in the order of the model: clipping sums their norms in the optimizer's
    return torch.optim.AdamW([{"params": table, "weight_decay": 0.1}, {"params": others}], lr=0.01)


LOOPS = {
    "as it is": {},
    "accumulated": {"accumulate": 2},
    "clipped": {"clip": 0.3},
    "clipped and announced": {"clip": 0.3, "announce": True},
    "accumulated and clipped": {"accumulate": 2, "clip": 0.3},
}


@pytest.mark.parametrize("configure", [sgd, adamw])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_plain_loop_logs_what_lightning_does(tmp_path, loop, configure):
    options = LOOPS[loop]
    theirs = {key: value for key, value in options.items() if key != "announce"}
    batches = pair_batches(STEPS * options.get("accumulate", 1))
    nets = [seeded(Contrasted), seeded(Contrasted)]
    expected = by_lightning(nets[0], configure, batches, tmp_path / "lightning", steps=STEPS, **theirs)
    found = plainly(nets[1], configure, batches, tmp_path / "plain", steps=STEPS, **options)
    keys = set().union(*expected)
    assert {f"normdyn/{TABLE}/{name}" for name in ("clip_ratio", "forecast_skill", "budget_drift")} <= keys
    assert "normdyn/net.encoder/drift_per_decay" in keys or "normdyn/net.encoder/stationarity" in keys
    assert_alike(found, expected)


def test_clipping_shows_however_the_step_was_announced(tmp_path):
    """The gradient's norm before clipping, against autograd."""
    batches, net = pair_batches(5), seeded(Contrasted)
    net_copy = copy.deepcopy(net)
    net_copy(batches[0]).backward()
    raw = float(net_copy.table.weight.grad.double().norm())
    total = float(torch.cat([p.grad.flatten() for p in net_copy.parameters()]).double().norm())
    for announce in (False, True):
        logged = plainly(copy.deepcopy(net), sgd, batches, None, clip=0.1, steps=5, announce=announce, every_n_steps=1)[
            0
        ]
        assert logged[f"normdyn/{TABLE}/gradient_norm"] == pytest.approx(raw, rel=1e-6)
        assert logged[f"normdyn/{TABLE}/clip_ratio"] == pytest.approx(0.1 / total, rel=1e-4)


@pytest.mark.parametrize("announce", [False, True])
def test_a_loss_scaler_changes_no_number(tmp_path, announce):
    """Powers of two scale exactly; a skipped step is counted where the loop announces its steps."""
    batches = pair_batches(STEPS)
    expected = plainly(seeded(Contrasted), sgd, batches, None, steps=STEPS)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    found = plainly(seeded(Contrasted), sgd, batches, None, steps=STEPS, scaler=scaler, announce=announce)
    assert_alike(found, expected)


@pytest.mark.parametrize("announce", [True, False])
def test_a_step_that_the_scaler_skipped_is_not_measured_and_counted_if_announced(announce):
    net, scaler = seeded(Contrasted), torch.amp.GradScaler("cpu", init_scale=1024.0)
    factors = iter([1, 1, 1, torch.inf, 1, 1])

    def spoil(weight):
        weight.grad.mul_(next(factors))

    net.encoder[3].weight.register_post_accumulate_grad_hook(spoil)
    logged = plainly(net, sgd, pair_batches(6), None, steps=6, scaler=scaler, announce=announce, every_n_steps=1)
    skipped = [
        metrics[f"normdyn/{TABLE}/skipped_steps"] for metrics in logged if f"normdyn/{TABLE}/norm_mean" in metrics
    ]
    assert skipped == [0, 0, 0, announce, announce]


@pytest.mark.parametrize("configure", [sgd, adamw])
def test_weights_are_bit_for_bit_those_without_an_observer(configure):
    batches, net = pair_batches(25), seeded(Contrasted)
    alone = copy.deepcopy(net)
    plainly(net, configure, batches, None, steps=25, every_n_steps=1)
    optimizer = configure(alone)
    scheduler = falling(optimizer, 25)
    for batch in batches:
        alone(batch).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    for mine, theirs in zip(net.parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def hooks(model, optimizer):
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    on_modules = sum(len(getattr(child, kind)) for child in model.modules() for kind in kinds)
    on_parameters = sum(len(p._post_accumulate_grad_hooks or {}) for p in model.parameters())
    return on_modules + on_parameters + len(optimizer._optimizer_step_post_hooks | optimizer._optimizer_step_pre_hooks)


def test_hooks_go_with_the_block_whatever_ends_it():
    model = Named(seeded(Contrasted))
    optimizer = sgd(model)
    with NormObserver(model, optimizer, **SETTINGS):
        model(pair_batches(1)[0])["loss"].backward()
        optimizer.step()
        assert hooks(model, optimizer) >= 4
    assert hooks(model, optimizer) == 0
    with pytest.raises(KeyError), NormObserver(model, optimizer, **SETTINGS):
        raise KeyError
    assert hooks(model, optimizer) == 0
    with pytest.raises(ValueError, match="matches no parameter"):
        NormObserver(model, optimizer, targets=["nothing"])


def test_a_resumed_loop_logs_what_an_unbroken_one_does(tmp_path):
    batches, logged = pair_batches(STEPS), []
    model = Named(seeded(Contrasted))
    whole = plainly(seeded(Contrasted), sgd, batches, None, steps=STEPS)
    optimizer = sgd(model.net)
    scheduler = falling(optimizer, STEPS)
    state = None
    for part in (batches[:27], batches[27:]):
        observer = NormObserver(
            model,
            optimizer,
            total_steps=STEPS,
            scheduler=scheduler,
            log=lambda metrics, _: logged.append(metrics),
            **SETTINGS,
        )
        if state is not None:
            file = tmp_path / "state.pt"
            torch.save(state, file)
            observer.load_state_dict(torch.load(file, weights_only=True))
        observer.begin()
        for batch in part:
            model.net(batch).backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        state = observer.state_dict()
        if part is batches[27:] or len(part) == STEPS - 27:
            observer.finish()
        else:
            observer.close()
    assert_alike(logged, whole, rel=0)


def test_state_comes_before_the_loop():
    model = Named(seeded(Contrasted))
    observer = NormObserver(model, sgd(model), **SETTINGS)
    observer.begin()
    with pytest.raises(RuntimeError, match="ahead of the with"):
        observer.load_state_dict({})
    observer.close()


def test_a_loop_whose_steps_are_not_seen_is_told_so():
    model = Named(seeded(Contrasted))
    observer = NormObserver(model, sgd(model), targets=[TABLE])
    observer.begin()
    with pytest.warns(UserWarning, match=f"no optimizer step of '{TABLE}' was seen"):
        observer.finish()


def test_a_history_is_left(tmp_path):
    plainly(seeded(Contrasted), sgd, pair_batches(20), tmp_path, steps=20)
    history = read_run(tmp_path)[TABLE]
    assert history.description()["total_steps"] == 20
    assert history.trajectory().num_rows


def test_a_scheduler_of_epochs_is_foreseen_by_its_steps(tmp_path):
    """The forecast kept on disk follows the rates that come; one scheduler step in ten optimizer steps."""
    forecasts = {}
    for every in (1, 10):
        net, folder = seeded(Contrasted), tmp_path / str(every)
        optimizer = sgd(net)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10 // every, gamma=0.5)
        settings = SETTINGS | {"total_steps": 40, "log_dir": folder, "targets": [TABLE]}
        with NormObserver(Named(net), optimizer, scheduler=scheduler, scheduler_every_n_steps=every, **settings):
            for number, batch in enumerate(pair_batches(40), 1):
                net(batch).backward()
                optimizer.step()
                optimizer.zero_grad()
                if number % every == 0:
                    scheduler.step()
        rows = read_run(folder)[TABLE].trajectory().to_pylist()
        forecasts[every] = [row["forecast_norm"] for row in rows if row["step"] == 20]
    assert forecasts[1] == forecasts[10]
    assert all(forecasts[1])


def test_a_closure_that_announces_its_step(tmp_path):
    batches = pair_batches(20)
    expected = plainly(seeded(Contrasted), sgd, batches, None, steps=20)
    net, logged = seeded(Contrasted), []
    optimizer = sgd(net)
    scheduler = falling(optimizer, 20)
    settings = SETTINGS | {"log": lambda metrics, _: logged.append(metrics)}
    with NormObserver(Named(net), optimizer, total_steps=20, scheduler=scheduler, **settings) as observer:
        for batch in batches:

            def closure(batch=batch):
                optimizer.zero_grad()
                net(batch).backward()
                observer.before_step()

            optimizer.step(closure)
            scheduler.step()
    assert_alike(logged, expected)


def test_a_loop_may_announce_some_steps_and_not_others():
    batches = pair_batches(20)
    expected = plainly(seeded(Contrasted), sgd, batches, None, steps=20, every_n_steps=1)
    net, logged = seeded(Contrasted), []
    optimizer = sgd(net)
    scheduler = falling(optimizer, 20)
    settings = SETTINGS | {"log": lambda metrics, _: logged.append(metrics), "every_n_steps": 1}
    with NormObserver(Named(net), optimizer, total_steps=20, scheduler=scheduler, **settings) as observer:
        for number, batch in enumerate(batches):
            net(batch).backward()
            if number % 3 == 0:
                observer.before_step(optimizer)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    assert_alike(logged, expected)


class Wrapping(torch.optim.Optimizer):
    """Shows another optimizer's groups, as accelerate does, and holds what must not be copied."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.defaults = optimizer.defaults

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def __deepcopy__(self, memo):
        raise AssertionError("the wrapper was copied")


def test_a_wrapped_optimizer_is_not_copied_to_look_ahead():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(Wrapping(optimizer), 1, gamma=0.5)
    course = run_ahead(optimizer, 0, [LRSchedule(scheduler, lambda _: True)], range(3))
    assert list(course.lrs) == [0.5, 0.25, 0.125]
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_an_optimizer_of_another_model_is_refused():
    models = [torch.nn.Embedding(6, 4) for _ in range(2)]
    observer = NormObserver(models[0], torch.optim.SGD(models[1].parameters(), lr=0.1))
    with pytest.warns(UserWarning, match="no optimizer trains"), pytest.raises(ValueError, match=r"^optimizer: .*none"):
        observer.begin()
