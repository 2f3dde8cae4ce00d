"""Fixtures of every folder that trains small models: trainers without ornament, one thread, a random state apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from memory_logger import MemoryLogger
from small_models import Batches

THIRD_PARTY_NOISE = [
    # pytorch_lightning 2.6 under torch 2.10 or later
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
]


def silence_third_parties(items, folder):
    """Marks the tests of a folder, rather than settings, so that they hold under ``-W error`` too."""
    for item in items:
        if item.path.parent == folder:
            for noise in THIRD_PARTY_NOISE:
                item.add_marker(pytest.mark.filterwarnings(noise))


@pytest.fixture
def fit(tmp_path):
    """Trains a module for one epoch and returns the trainer; its ``logger`` keeps what was logged."""

    def run(module, batches, *callbacks, ckpt_path=None, weights_only=None, **options):
        defaults = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": MemoryLogger(),
            "log_every_n_steps": 1,
            "default_root_dir": tmp_path,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        trainer = pl.Trainer(**defaults | options, callbacks=list(callbacks))
        resume = {"ckpt_path": ckpt_path} | ({} if weights_only is None else {"weights_only": weights_only})
        trainer.fit(module, None if batches is None else Batches(batches), **resume)
        return trainer

    return run


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Models this small train twenty times faster so, where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def separate_random_state():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True, scope="package")
def shared_modules_in_workers():
    """Scripts that a test starts find the modules of this folder as the test does (``pythonpath`` in setup.cfg)."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        yield
