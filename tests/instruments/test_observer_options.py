"""Options that the callbacks share: written once, one meaning each, and shown to the user with types and defaults."""

from __future__ import annotations

import inspect

import pytest
import torch
from jsonargparse import ArgumentParser
from pytorch_lightning import Callback
from small_models import Lit, PairTable, pair_batches, seeded

from lightning_normdyn.callbacks import EquilibriumFitMonitor, GradientSplitMonitor, NormDynamics, NormTrajectoryMonitor
from lightning_normdyn.history import read_run
from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.instruments.options import DEFAULTS, LookOptions, NormOptions
from lightning_normdyn.integrations.hugging_face import NormDynamicsTrainerCallback

STEPS = 40
TABLE = "net.table.weight"
WHOLE = [NormDynamics, EquilibriumFitMonitor, NormObserver, NormDynamicsTrainerCallback]
LOOKS = [GradientSplitMonitor, NormTrajectoryMonitor]


@pytest.mark.parametrize(("classes", "options"), [(WHOLE, NormOptions), (LOOKS, LookOptions)])
def test_every_class_takes_the_same_options_with_the_same_defaults(classes, options):
    expected = {name: DEFAULTS[name] for name in DEFAULTS if name in options.__annotations__}
    assert set(NormOptions.__annotations__) == set(DEFAULTS)
    for cls in classes:
        parameters = inspect.signature(cls).parameters
        assert {name: parameters[name].default for name in expected} == expected
        assert not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
        for name in expected:
            assert f"\n    {name}: " in inspect.getdoc(cls), (cls, name)
        own = set(parameters) - set(expected)
        assert own.isdisjoint(DEFAULTS)


@pytest.mark.parametrize("cls", [NormDynamics, EquilibriumFitMonitor, GradientSplitMonitor, NormTrajectoryMonitor])
def test_help_shows_type_default_and_words(cls, capsys):
    parser = ArgumentParser()
    parser.add_argument("--callback", type=Callback)
    with pytest.raises(SystemExit):
        parser.parse_args([f"--callback.help=lightning_normdyn.callbacks.{cls.__name__}"])
    text = " ".join(capsys.readouterr().out.split())
    assert "cadence of looks in optimizer steps" in text
    assert "(type: int, default: 50)" in text
    assert ("(type: int | float, default: 0.2)" in text) == (cls not in LOOKS)


@pytest.mark.parametrize(("word", "window"), [("1", 1), ("1.0", 1.0), ("0.2", 0.2), ("500", 500)])
def test_a_word_of_the_command_line_keeps_its_kind(word, window):
    parser = ArgumentParser()
    parser.add_argument("--callback", type=Callback)
    arguments = ["--callback=lightning_normdyn.callbacks.NormDynamics", f"--callback.window={word}"]
    parsed = parser.parse_args(arguments).callback.init_args.window
    assert parsed == window
    assert type(parsed) is type(window)


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match=r"^sample_every_n_steps: no such option; there are every_n_steps, "):
        NormDynamics(sample_every_n_steps=3)


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.3, weight_decay=0.02)


def window_ends(fit, folder, **options):
    """The steps at which windows closed."""
    fit(Lit(seeded(PairTable), sgd), pair_batches(STEPS), NormDynamics(every_n_steps=STEPS, **options))
    rows = read_run(folder)[TABLE].trajectory().to_pylist()
    return sorted({row["step"] for row in rows if row["second_moment"] is not None})


@pytest.mark.parametrize(
    ("window", "ends"),
    [(1.0, [40]), (0.5, [20, 40]), (1, list(range(1, 41))), (16, [16, 32, 40])],
)
def test_a_float_is_a_share_of_the_run_and_an_int_a_number_of_steps(fit, tmp_path, window, ends):
    assert window_ends(fit, tmp_path, window=window) == ends


def forecasts(fit, folder, forecast_at):
    """The norms that were forecast for the end when the forecast that was judged was made, and its skill."""
    trainer = fit(Lit(seeded(PairTable), sgd), pair_batches(STEPS), NormDynamics(window=10, forecast_at=forecast_at))
    return float(trainer.callback_metrics[f"normdyn/{TABLE}/forecast_skill"])


def test_forecast_at_is_a_share_or_a_step_too(fit, tmp_path):
    """Windows end at 10, 20 and 30: the first that is not too early counts."""
    skills = {at: forecasts(fit, tmp_path, at) for at in (0.5, 20, 11, 0.25, 10, 30)}
    assert skills[0.5] == skills[20] == skills[11]
    assert skills[0.25] == skills[10]
    assert len({skills[at] for at in (10, 20, 30)}) == 3


def test_gradient_moments_have_a_cadence_of_their_own(fit, tmp_path):
    """Every look of the fit alone falls on every_n_steps; moments of every second step miss half of the updates."""
    callback = EquilibriumFitMonitor(every_n_steps=10, fit_every_n_steps=2, window=40)
    fit(Lit(seeded(PairTable), sgd), pair_batches(STEPS), callback)
    rows = read_run(tmp_path)[TABLE].trajectory().to_pylist()
    batches = pair_batches(STEPS)[1::2]
    for row in rows:
        share = sum(bool((batch == row["row"]).any()) for batch in batches) / len(batches)
        assert row["update_probability"] == pytest.approx(share, abs=1e-6)
