"""Trains in two processes that do not take the same steps, and leaves what came of it for the test that started it.

Run as ``python -m torch.distributed.run --nproc-per-node 2 apart_worker.py FOLDER``.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
import warnings
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from mid_run_changes import ENCODER, TABLE, Towers, sgd
from small_models import DIM, pair_batches, seeded

from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.probe import Probe
from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.instruments import NormObserver, meeting

STEPS = 12
PROBE = dict.fromkeys((ENCODER, "encoder.2"), torch.linspace(-1, 1, 6 * DIM).reshape(6, DIM))
VERDICT = re.compile(r": (warning|critical) \(\w+\) at step ")


def train(rank, *, steps=STEPS, targets=(ENCODER, TABLE), is_observed=True):
    """Trains on this rank's half of each batch, alone; returns weights, what was logged, and what was said."""
    net, logged = seeded(Towers), []
    optimizer = sgd(net.parameters())
    observer = NormObserver(
        net, optimizer, targets=list(targets), total_steps=STEPS, every_n_steps=2, window=4, probe=PROBE,
        log=lambda metrics, _: logged.append(metrics),
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        start = time.monotonic()
        with observer if is_observed else contextlib.nullcontext():
            for batch in pair_batches(STEPS)[:steps]:
                optimizer.zero_grad()
                net(batch.chunk(2)[rank]).backward()
                optimizer.step()
        seconds = time.monotonic() - start
    said = [str(warning.message) for warning in record]
    return {
        "weights": net.state_dict(),
        "keys": sorted({key.rpartition("/")[0] for metrics in logged for key in metrics}),
        "logged": logged,
        "said": [message for message in said if "NormObserver" in message and not VERDICT.search(message)],
        "seconds": seconds,
    }


def failing(method, owner, rank, at):
    """Makes a method fail on the second rank, from its call number ``at`` on."""
    original, calls = getattr(owner, method), []

    def fails(self, *args, **kwargs):
        calls.append(self)
        if rank == 1 and len(calls) >= at:
            raise ZeroDivisionError("nothing to divide by")
        return original(self, *args, **kwargs)

    return mock.patch.object(owner, method, fails)


def cases(rank):
    """Each is run on both ranks, one after the other."""
    yield "together", contextlib.nullcontext(), {}
    yield "the first rank alone", contextlib.nullcontext(), {"is_observed": rank == 0}
    yield "tables of the first rank alone", contextlib.nullcontext(), {"is_observed": rank == 0, "targets": [TABLE]}
    yield "uneven loops", contextlib.nullcontext(), {"steps": STEPS - 3 * rank}
    yield "other targets", contextlib.nullcontext(), {"targets": [[ENCODER], ["encoder.2"]][rank]}
    yield "an error on the second rank", failing("step", OutputTarget, rank, 3), {}
    yield "an encoder that fails on the second rank", failing("_encode_share", Probe, rank, 7), {}


def main(folder):
    dist.init_process_group("gloo")
    meeting.PATIENCE = 1.0
    logging.getLogger("lightning_normdyn.caution").disabled = True
    rank, results = dist.get_rank(), {}
    for name, patch, options in cases(rank):
        with patch:
            results[name] = train(rank, **options)
        dist.barrier()
    results["undisturbed"] = {steps: train(rank, steps=steps, is_observed=False) for steps in (STEPS - 3, STEPS)}
    torch.save(results, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ended_process_group():
        main(Path(sys.argv[1]))
