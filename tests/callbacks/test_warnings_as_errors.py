"""Under ``python -W error`` no warning of ours ends a training: it goes to the log, and the steps are all made."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRAINING = """
import torch, warnings
from pytorch_lightning import Trainer
from small_models import Batches, Lit, PairTable, pair_batches, seeded
from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.instruments import Instrument, NormObserver

class Fails(Instrument):
    quantities = ("a",)
    def measure(self, look):
        raise ZeroDivisionError("nothing there")

def sgd(net):
    for group in [net.table.weight]:
        group.register_hook(lambda g: g.index_fill(0, torch.tensor([0]), float("nan")))
    return torch.optim.SGD(net.parameters(), lr=0.1)

warnings.simplefilter("error", UserWarning)
options = dict(every_n_steps=1, window=2, targets=["*table.weight"], instruments=[Fails()])
if {plain}:
    net = seeded(PairTable)
    optimizer = sgd(net)
    with NormObserver(net, optimizer, total_steps=6, **options):
        for batch in pair_batches(6):
            optimizer.zero_grad()
            net(batch).backward()
            optimizer.step()
    print("steps 6")
else:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|lightning_utilities|torch")
        quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        monitor = NormDynamics(save_history=False, **options)
        trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=[monitor], **quiet)
        trainer.fit(Lit(seeded(PairTable), sgd), Batches(pair_batches(6)))
    print("steps", trainer.global_step)
"""


@pytest.mark.parametrize("plain", [True, False], ids=["plain loop", "Lightning"])
def test_a_training_is_made_to_its_end(plain):
    script = TRAINING.replace("{plain}", str(plain))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith("steps 6")
    assert "instruments: Fails failed at step 1" in run.stderr
    assert "row gradients of" in run.stderr
