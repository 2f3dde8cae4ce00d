"""One callback serves trainers of both packages, installed together or alone."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import torch
if "alone" in sys.argv:
    sys.modules["pytorch_lightning"] = None  # as if it were not installed
import lightning.pytorch as pl
from lightning_normdyn.callbacks import NormDynamics

class Words(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 8)
    def training_step(self, batch, batch_idx):
        queries, documents = torch.nn.functional.normalize(self.table(batch), dim=-1).unbind(1)
        return torch.nn.functional.cross_entropy(queries @ documents.T / 0.1, torch.arange(len(batch)))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5, weight_decay=1e-2)

trainer = pl.Trainer(
    max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, callbacks=[NormDynamics(save_history=False)],
)
trainer.fit(Words(), torch.utils.data.DataLoader(torch.randint(50, (1920, 2)), batch_size=64))
print("ERROR", float(trainer.callback_metrics["normdyn/table.weight/transient_median_error"]))
"""


@pytest.mark.parametrize("installed", ["both", "alone"])
def test_a_trainer_of_the_lightning_package_logs_the_fit(tmp_path: Path, installed: str) -> None:
    pytest.importorskip("lightning")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, installed]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.split("ERROR")[1]) < 0.1
