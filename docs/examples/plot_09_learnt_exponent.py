"""
Let the loss learn how much of each length to keep
==================================================

With ``normalization="learnable"`` both exponents start at ½ and train with the model. We train a small retriever
whose documents are asked for unevenly often, and watch where the exponents go.
"""

import matplotlib.pyplot as plt
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_normdyn.losses import ContrastiveMixin

# %%
# A retriever with the mixin
# --------------------------
# What the loss learns needs a parameter group of its own without weight decay, which would pull the exponents to ½.

torch.manual_seed(0)
DOCUMENTS, STEPS, BATCH = 256, 1200, 64
popularity = 1 / torch.arange(1, DOCUMENTS + 1).float()


class Retriever(ContrastiveMixin, LightningModule):
    """Queries are noisy views of documents; popular documents answer most of them."""

    def __init__(self, **contrastive) -> None:
        super().__init__(**contrastive)
        self.query = torch.nn.Linear(32, 16, bias=False)
        self.document = torch.nn.Embedding(DOCUMENTS, 16)

    def training_step(self, batch, batch_idx):
        queries, ids = batch
        return self.contrastive_loss(self.query(queries), self.document(ids), query_ids=ids, document_ids=ids)

    def configure_optimizers(self):
        towers = [*self.query.parameters(), *self.document.parameters()]
        learnt = {"params": self.contrast.parameters(), "weight_decay": 0.0, "lr": 3e-2}
        return torch.optim.AdamW([{"params": towers}, learnt], lr=1e-2)


class Exponents(Callback):
    """Keeps the learnt exponents of every step."""

    def __init__(self) -> None:
        self.course: list[tuple[float, float]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.course.append(tuple(float(exponent) for exponent in module.contrast.exponents))


# %%
# Train
# -----
content = torch.randn(DOCUMENTS, 32)
ids = torch.multinomial(popularity, STEPS * BATCH, replacement=True)
queries = content[ids] + torch.randn(STEPS * BATCH, 32)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(queries, ids), batch_size=BATCH)
exponents = Exponents()
trainer = Trainer(
    max_epochs=1,
    callbacks=[exponents],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Retriever(normalization="learnable", temperature=0.2), loader)
gamma_query, gamma_document = exponents.course[-1]
print(f"learnt: gamma_query {gamma_query:.2f}, gamma_document {gamma_document:.2f}")

# %%
# What it chose
# -------------
# The exponent of documents rose to 0.76: three quarters of a document's length are divided out. That of queries ended
# at 0.44, near where it started. Neither went to 0 or 1, so no cell of the 2×2 grid stands out here; ``normdyn grid``
# would tell what each of them is worth.

assert abs(gamma_document - 0.76) < 0.05
assert abs(gamma_query - 0.44) < 0.06

figure, axes = plt.subplots()
axes.plot([pair[0] for pair in exponents.course], label="gamma_query")
axes.plot([pair[1] for pair in exponents.course], label="gamma_document")
axes.axhline(0.5, color="gray", linestyle=":")
axes.set(xlabel="step", ylabel="learnt exponent", ylim=(0, 1))
axes.text(0, 1, "length divided out", va="top")
axes.text(0, 0, "length kept", va="bottom")
axes.legend()
plt.show()
