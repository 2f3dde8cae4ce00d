"""
A norm of your choice from the first step on
============================================

Two levers in a LightningModule: :func:`~lightning_normdyn.levers.weight_decay_for` gives the weight decay at which
rows settle at the norm you want, and :func:`~lightning_normdyn.levers.equilibrium_init` puts them there before the
first step. Both read the optimizer, so ``configure_optimizers`` is the place for them: parameters and rates are known
there.
"""

import matplotlib.pyplot as plt
import torch
from pytorch_lightning import LightningModule, Trainer

from lightning_normdyn.core import equilibrium_rule
from lightning_normdyn.levers import equilibrium_init, weight_decay_for
from lightning_normdyn.losses import InfoNCE

# %%
# The module
# ----------
# Under AdamW the law of a row asks for p, the share of steps in which the row gets a gradient. For rows drawn evenly
# in pairs that is what follows from the batch: 128 draws from 200 words touch a word with p = 1 − (1 − 1/200)^128.

WORDS, DIM, BATCH, STEPS = 200, 32, 64, 1500
PROBABILITY = 1 - (1 - 1 / WORDS) ** (2 * BATCH)


class Words(LightningModule):
    """A table that settles at norm 2 if it is told to, and keeps the optimizer's default decay if not."""

    def __init__(self, target_norm: float | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(WORDS, DIM)
        self.loss = InfoNCE(temperature=0.2)
        self.target_norm = target_norm
        self.mean_norms: list[float] = []

    def training_step(self, batch, batch_idx):
        self.mean_norms.append(float(self.table.weight.detach().norm(dim=1).mean()))
        queries, documents = batch.unbind(1)
        return self.loss(self.table(queries), self.table(documents), query_ids=queries, document_ids=documents)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.table.parameters(), lr=1e-2)
        if self.target_norm is not None:
            optimizer.param_groups[0]["weight_decay"] = weight_decay_for(
                equilibrium_rule(optimizer), target_norm=self.target_norm, dim=DIM, update_probability=PROBABILITY
            )
            equilibrium_init(self.table.weight, equilibrium_rule(optimizer), update_probability=PROBABILITY)
        return optimizer


# %%
# With and without
# ----------------
# Half of the pairs are words of one group, the other half are noise, as in most data.

first = torch.randint(WORDS, (STEPS * BATCH,))
related = first // 5 * 5 + torch.randint(5, (STEPS * BATCH,))  # another word of the same group of five
random = torch.randint(WORDS, (STEPS * BATCH,))
second = torch.where(torch.rand(STEPS * BATCH) < 0.5, related, random)
loader = torch.utils.data.DataLoader(torch.stack((first, second), 1), batch_size=BATCH)


def train(target_norm: float | None) -> Words:
    module = Words(target_norm)
    trainer = Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(module, loader)
    return module


plain, settled = train(None), train(2.0)
print(f"as by default: {plain.mean_norms[0]:.2f} at the start, {plain.mean_norms[-1]:.2f} at the end")
print(f"with levers:   {settled.mean_norms[0]:.2f} at the start, {settled.mean_norms[-1]:.2f} at the end")

# %%
# With the levers the mean norm stays within 4% of 2.0 in every step. Without, rows start at 5.6, are still on their
# way after 1,500 steps, and where they go was nobody's choice.

assert all(abs(norm / 2.0 - 1) < 0.04 for norm in settled.mean_norms)
assert abs(plain.mean_norms[0] - 5.6) < 0.1
assert abs(plain.mean_norms[-1] / plain.mean_norms[-300] - 1) > 0.01

figure, axes = plt.subplots()
axes.plot(plain.mean_norms, label="default decay and start")
axes.plot(settled.mean_norms, label="weight_decay_for(target_norm=2) and equilibrium_init")
axes.axhline(2.0, color="gray", linestyle=":")
axes.set(xlabel="step", ylabel="mean norm of rows", ylim=(0, None))
axes.legend()

# %%
# The law assumes gradients that are like noise from one step to the next. Where they are not, rows end as far from the
# target as ``equilibrium_median_error`` says.
plt.show()
