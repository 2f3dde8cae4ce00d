"""The loops in which setups train: each runs a model unobserved under a tally, observed, or resumed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

STEPS, HALF, BATCH = 10, 5, 8
OPTIONS = {"every_n_steps": 1, "window": 5, "probe_items": 6}


@dataclass
class Run:
    """How a training is to be run.

    Attributes:
        folder: for what it writes.
        target: what is observed; empty for nothing.
        tally: what sums up from outside; ``None`` for nothing.
        resumes: whether it goes on from where the checkpoint of step ``HALF`` in the folder stands.
    """

    folder: Path
    target: str = ""
    tally: object = None
    tapped: object = None
    resumes: bool = False
    weights: dict = field(default_factory=dict)
    scalars: list = field(default_factory=list)

    def finish(self, model, logged):
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.scalars = [
            {key.removeprefix(f"normdyn/{self.target}/"): value for key, value in entry.items() if "normdyn/" in key}
            for entry in logged
        ]
        self.scalars = [entry for entry in self.scalars if entry]


def by_hugging_face(run, make_trainer, **arguments):
    """A Trainer of transformers or of one of its subclasses."""
    from transformers import TrainerCallback

    from lightning_normdyn.integrations.hugging_face import NormDynamicsTrainerCallback

    class Ended(TrainerCallback):
        def on_step_end(self, args, state, control, **objects):
            run.tally.end_step()

    torch.manual_seed(0)
    defaults = {
        "output_dir": str(run.folder / "out"),
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "max_grad_norm": 0.0,
        "save_strategy": "steps",
        "save_steps": HALF,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
    }
    trainer = make_trainer(run.folder, **defaults | arguments)
    if run.tally is not None:
        run.tally.attach(run.tapped(trainer.model))
        trainer.add_callback(Ended())
    if run.target:
        trainer.add_callback(NormDynamicsTrainerCallback(targets=[run.target], **OPTIONS))
    checkpoint = str(run.folder / "out" / f"checkpoint-{HALF}") if run.resumes else None
    trainer.train(resume_from_checkpoint=checkpoint)
    run.finish(trainer.model, trainer.state.log_history)


def by_plain_loop(run, make_model, batches, configure, **options):
    """A loop of one's own under a NormObserver, which saves and loads what a checkpoint needs."""
    from lightning_normdyn.instruments import NormObserver

    torch.manual_seed(0)
    model = make_model(run.folder)  # maps a batch to a loss
    optimizer = configure(model)
    first = 0
    logged: list = []
    observer = None
    if run.target:
        options = OPTIONS | {"targets": [run.target], "log": lambda metrics, _: logged.append(metrics)} | options
        observer = NormObserver(model, optimizer, total_steps=STEPS, **options)
    checkpoint = run.folder / "checkpoint.pt"
    if run.resumes:
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        observer.load_state_dict(state["observer"])
        torch.set_rng_state(state["random"])
        logged += state["logged"]
        first = HALF
    else:
        torch.manual_seed(3)
    if run.tally is not None:
        run.tally.attach(run.tapped(model))
    if observer is not None:
        observer.begin()
    for number in range(first, STEPS):
        if observer is not None and number == HALF and not run.resumes:
            parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "logged": list(logged)}
            state = parts | {"observer": observer.state_dict(), "random": torch.get_rng_state()}
            torch.save(state, checkpoint)
        optimizer.zero_grad()
        model(batches[number]).backward()
        optimizer.step()
        if run.tally is not None:
            run.tally.end_step()
    if observer is not None:
        observer.finish()
    run.finish(model, logged)


def under_torchrec(run, kind):
    """A loop under TorchRec's DistributedModelParallel on one process, whose fused optimizer nobody steps.

    The table is called ``rows``; the tally is told what autograd gives for the rows as they are before each step.
    """
    import sharded_recommender as recommender

    from lightning_normdyn.integrations.torchrec import TorchRecObserver

    with recommender.process_group():
        _train_under_torchrec(run, recommender, TorchRecObserver, kind)


def _train_under_torchrec(run, recommender, make_observer, kind):
    model, batches = recommender.sharded(kind), recommender.features(STEPS)
    first, logged, checkpoint = 0, [], run.folder / "checkpoint.pt"
    observer = None
    if run.target:
        observer = make_observer(
            model, total_steps=STEPS, log=lambda m, _: logged.append(m), targets=[run.target], **OPTIONS
        )
    if run.resumes:
        state = torch.load(checkpoint, weights_only=True)
        recommender.set_whole(model, state["whole"])
        observer.load_state_dict(state["observer"])
        logged += state["logged"]
        first = HALF
    if run.tally is not None:
        run.tally.attach(recommender.ByHand(kind, column_blocks=2))
    if observer is not None:
        observer.begin()
    for number in range(first, STEPS):
        if observer is not None and number == HALF and not run.resumes:
            state = {"observer": observer.state_dict(), "whole": recommender.whole_tables(model)}
            torch.save(state | {"logged": list(logged)}, checkpoint)
        recommender.loss_of(model(recommender.jagged_features(batches[number])), batches[number]).backward()
        if run.tally is not None:
            run.tally.step(batches[number])
    if observer is not None:
        observer.finish()
    run.weights = recommender.whole_tables(model)
    prefix = f"normdyn/{run.target}/"
    run.scalars = [{key.removeprefix(prefix): value for key, value in entry.items()} for entry in logged]
