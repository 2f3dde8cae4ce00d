"""``normdyn demo``: train on real text in front of the user and compare the norms with the theory."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from lightning_normdyn.cli.extras import require
from lightning_normdyn.cli.run_folder import create_run_folder, write_summary, write_vocabulary

INTERRUPTED = 130


def run_demo(options: argparse.Namespace) -> int:
    """Trains, prints what was found and writes it to the run's folder.

    Args:
        options: ``text``, ``optimizer``, ``schedule``, ``steps``, ``seed``, ``out``.

    Returns:
        0, or 130 if Ctrl-C ended the run early; either way what is known was printed and saved.

    Raises:
        ValueError: if the text or the folder will not do.
        OSError: if the folder cannot be written.
    """
    require("rich", "tensorboard", extra="cli")
    from pytorch_lightning import seed_everything
    from rich.console import Console

    from lightning_normdyn.cli.findings import Findings
    from lightning_normdyn.cli.training import train
    from lightning_normdyn.tasks import TokenContrast

    started = time.perf_counter()
    console = Console(highlight=False)
    folder = create_run_folder(options.out)
    data = _load_data(options, folder)
    console.print(_opening(options, data), soft_wrap=True)
    seed_everything(options.seed, verbose=False)
    module = TokenContrast(data.table_rows, optimizer=options.optimizer, schedule=options.schedule)
    trainer = train(module, data, steps=options.steps, folder=folder)
    findings = Findings(trainer.callback_metrics, module.table.weight, data.vocabulary.counts)
    summary = _summarise(options, data, findings, steps=trainer.global_step, started=started)
    _show(console, findings, summary, options.steps)
    _save(console, folder, data, summary)
    return 0 if trainer.global_step >= options.steps else INTERRUPTED
