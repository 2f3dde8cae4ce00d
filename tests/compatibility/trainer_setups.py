"""Rows of the Trainer of transformers, as people set it up: a small BERT that classifies, its word table followed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from rank_starter import run_ranks
from setups import Setup
from small_transformers import bert_classifier
from tally import TableTally
from trainings import BATCH, HALF, STEPS, by_hugging_face

WORDS, GROWN, GROWTH_STEP = 30, 40, 3
WORKER = Path(__file__).with_name("trainer_ranks_worker.py")
TABLE = "bert.embeddings.word_embeddings.weight"


def texts(rows=STEPS * BATCH * 2, seed=0):
    ids = torch.randint(WORDS, (rows, 6), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": row, "labels": int(row[0]) % 2} for row in ids]


def trainer(folder, words=WORDS, **arguments):
    from transformers import Trainer, TrainingArguments

    model = bert_classifier(WORDS)
    if words != WORDS:
        model.resize_token_embeddings(words, mean_resizing=False)
    return Trainer(model, TrainingArguments(**arguments), train_dataset=texts())


class GrowingTableTally(TableTally):
    """Starts afresh where the table has other rows than before, of which step nobody is told the gradient."""

    def end_step(self):
        has_grown = self.steps and len(self._parameter) != len(self._met)
        self._met = False if has_grown else self._met
        super().end_step()
        if has_grown:
            del self.steps[-1]["gradient_norm"]


def by_growth(run, **arguments):
    """The vocabulary grows in mid-run; from a later checkpoint the model has its new size from the start."""
    from transformers import TrainerCallback

    class Growing(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **objects):
            if state.global_step == GROWTH_STEP:
                model.resize_token_embeddings(GROWN, mean_resizing=False)

    def make_trainer(folder, **options):
        if run.resumes:
            return trainer(folder, GROWN, **options)
        growing = trainer(folder, **options)
        growing.add_callback(Growing())
        return growing

    by_hugging_face(run, make_trainer, **arguments)


def by_two_processes(run):
    """All three trainings at once, when the first is asked for; the first rank logs."""
    folder = run.folder.parent
    if run.tally is not None:
        run_ranks(WORKER, folder)
    name = "alone" if run.tally is not None else "resumed" if run.resumes else "whole"
    first, second = (torch.load(folder / f"rank-{rank}.pt", weights_only=True)[name] for rank in (0, 1))
    assert not [name for name, value in first["weights"].items() if not torch.equal(value, second["weights"][name])]
    assert run.resumes or second["scalars"] == []  # a checkpoint has the first rank's
    run.weights, run.scalars = first["weights"], first["scalars"]
    if run.tally is not None:
        run.tally.steps = first["steps"]


def row(kind, train, tally=TableTally, **options):
    make_tally = partial(tally, TABLE)
    return Setup(
        "transformers", f"Trainer, {kind}", train, TABLE, lambda model: model, make_tally, ["accelerate"], **options
    )


def by_trainer(**arguments):
    return partial(by_hugging_face, make_trainer=trainer, **arguments)


assert GROWTH_STEP < HALF
TRAINER_SETUPS = [
    row("bfloat16", by_trainer(bf16=True)),
    row("accumulated over two batches", by_trainer(gradient_accumulation_steps=2)),
    row("gradients clipped", by_trainer(max_grad_norm=0.1)),
    row("fused AdamW", by_trainer(optim="adamw_torch_fused")),
    row("Adafactor of transformers", by_trainer(optim="adafactor")),
    row(
        "SGD, resize_token_embeddings in mid-run",
        partial(by_growth, optim="sgd"),
        GrowingTableTally,
        warning="from step 4 on; followed, with statistics that start afresh there",
    ),
    row("two processes", by_two_processes, marks=[pytest.mark.exhaustive]),
    row("torch_compile (inductor)", by_trainer(torch_compile=True), marks=[pytest.mark.exhaustive]),
]
