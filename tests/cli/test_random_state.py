"""A command that Python calls leaves the caller's random numbers where they were."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from pytorch_lightning import seed_everything

from lightning_normdyn.cli import demo
from lightning_normdyn.cli.commands.command import Shell, command


@command(Shell())
def reseeding(*, fails: bool = False) -> list[float]:
    """Seeds all that there is, and draws of it."""
    seed_everything(0, workers=True, verbose=False)
    numbers = [random.random(), float(np.random.rand()), float(torch.rand(()))]
    if fails:
        raise ArithmeticError
    return numbers


def state():
    seeds = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), seeds


@pytest.mark.parametrize("seed", [None, "7"])
def test_random_numbers_go_on_as_if_no_command_had_run(monkeypatch, seed):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    if seed is not None:
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
    before = state()
    assert reseeding() == reseeding()
    with pytest.raises(ArithmeticError):
        reseeding(fails=True)
    assert state() == before


def test_a_demo_that_trains_leaves_them_too(text, tmp_path):
    before = state()
    demo(text=[text], steps=3, out=tmp_path / "run")
    assert state() == before


def test_a_command_that_loads_torch_first_leaves_it_unseeded():
    script = (
        "from lightning_normdyn.cli.commands.command import unchanged_random_state\n"
        "with unchanged_random_state():\n"
        "    import torch, numpy\n"
        "    torch.manual_seed(0), numpy.random.seed(0)\n"
        "    drawn = numpy.random.rand()\n"
        "assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator()))\n"
        "numpy.random.seed(0); assert numpy.random.rand() == drawn\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
