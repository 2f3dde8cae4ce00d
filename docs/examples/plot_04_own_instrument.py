"""
An instrument of your own: the effective rank of a table
========================================================

``NormDynamics(instruments=[...])`` takes quantities that the package does not know. One class with two entries is
enough: the names of what it measures, and ``measure``, which is shown a copy of the vectors. What it gives is logged
beside the norms, goes into the history, and cannot change the training.
"""

import matplotlib.pyplot as plt
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.instruments import Instrument
from lightning_normdyn.losses import InfoNCE

# %%
# The instrument
# --------------
# The effective rank (Roy and Vetterli 2007) is the exponential of the entropy of the singular values: d for vectors
# that fill their space evenly, 1 if all of them lie on one line. A collapse shows in it first.


class EffectiveRank(Instrument):
    """Exponential of the entropy of the singular values."""

    quantities = ("effective_rank",)

    def measure(self, look):
        spectrum = torch.linalg.svdvals(look.vectors.double())
        return {"effective_rank": torch.special.entr(spectrum / spectrum.sum()).sum().exp()}


# %%
# A table that has more dimensions than it needs
# ----------------------------------------------
# The words lie in 8 groups, and all words of a group are each other's positives: 8 directions will do, and the table
# has 32 dimensions.

torch.manual_seed(0)
WORDS, GROUPS, DIM, BATCH, STEPS = 256, 8, 32, 64, 800


class Words(LightningModule):
    """An embedding table under InfoNCE."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(WORDS, DIM)
        self.loss = InfoNCE(temperature=0.5)

    def training_step(self, batch, batch_idx):
        queries, documents = batch.unbind(1)
        groups = {"query_ids": queries % GROUPS, "document_ids": documents % GROUPS}
        return self.loss(self.table(queries), self.table(documents), **groups)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=4.0, weight_decay=1e-3)


class Course(Callback):
    """Keeps two logged numbers of every batch."""

    def __init__(self) -> None:
        self.rank: list[float] = []
        self.norm: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.rank.append(float(trainer.callback_metrics["normdyn/table.weight/effective_rank"]))
        self.norm.append(float(trainer.callback_metrics["normdyn/table.weight/norm_mean"]))


first = torch.randint(WORDS, (STEPS * BATCH,))
second = (first + GROUPS * torch.randint(WORDS // GROUPS, (STEPS * BATCH,))) % WORDS
course = Course()
trainer = Trainer(
    max_epochs=1,
    callbacks=[
        NormDynamics(
            targets=["table.weight"],
            instruments=[EffectiveRank()],
            every_n_steps=10,
            save_history=False,
        ),
        course,
    ],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Words(), torch.utils.data.DataLoader(torch.stack((first, second), 1), batch_size=BATCH))
print(f"effective rank {course.rank[0]:.1f} at the start, {course.rank[-1]:.2f} at the end")

# %%
# What it shows
# -------------
# The rank falls from 31 to 7.0. Eight groups that are as far from one another as they can be stand at the corners of a
# simplex, which spans seven dimensions. The other 25 dimensions held nothing but the random start; the loss does not
# ask for them, so weight decay takes them away.

assert abs(course.rank[0] - 31) < 1
assert abs(course.rank[-1] - 7.0) < 0.2

figure, axes = plt.subplots()
axes.plot(course.rank, color="C0")
axes.axhline(GROUPS - 1, color="gray", linestyle=":")
axes.set(xlabel="step", ylabel="effective rank", ylim=(0, DIM))
norms = axes.twinx()
norms.plot(course.norm, color="C1")
norms.set(ylabel="mean norm", ylim=(0, None))
norms.spines["right"].set_visible(True)
for axis, color in ((axes.yaxis, "C0"), (norms.yaxis, "C1")):
    axis.label.set_color(color)
plt.show()
