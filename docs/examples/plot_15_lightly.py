"""
lightly's SimCLR, in Lightning
==============================

The examples of `lightly <https://docs.lightly.ai>`_ cut the classifier off a network, whose backbone then ends in
``[n, C, 1, 1]``; each such output is a vector of ``C`` numbers, and is followed as one. lightly is none of this
package's extras, so the page is run where it is installed; elsewhere, as in the documentation's own build, the code is
shown as it is, and what it printed with lightly 1.6.0.
"""

import matplotlib.pyplot as plt
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from lightning_normdyn.callbacks import NormDynamics

# %%
# Two views of small pictures
# ---------------------------
# Pictures are patches of nine colours.

torch.manual_seed(0)
PICTURES, BATCH, EPOCHS = 640, 64, 20
pictures = nn.functional.interpolate(2 * torch.randn(PICTURES, 3, 3, 3), size=12, mode="bilinear")


def two_views(rows):
    """Noisy copies of the same pictures."""
    batch = torch.stack(rows)
    return [batch + 0.7 * torch.randn_like(batch) for _ in range(2)]


class SimCLR(LightningModule):
    """A backbone and a projection head, as in lightly's example of that name."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()]
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.projection_head = SimCLRProjectionHead(32, 32, 16)
        self.criterion = NTXentLoss()

    def training_step(self, views, batch_idx):
        first, second = (self.projection_head(self.backbone(view).flatten(start_dim=1)) for view in views)
        return self.criterion(first, second)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)


class Course(Callback):
    """Keeps the norms of every batch."""

    def __init__(self):
        self.norms = {quantity: [] for quantity in ("norm_p05", "norm_p50", "norm_p95")}

    def on_train_batch_end(self, trainer, *arguments):
        for quantity, course in self.norms.items():
            course.append(float(trainer.callback_metrics[f"normdyn/backbone/{quantity}"]))


# %%
# Training
# --------

course, model = Course(), SimCLR()
trainer = Trainer(
    max_epochs=EPOCHS,
    callbacks=[NormDynamics(targets=["backbone"], every_n_steps=10, save_history=False), course],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, torch.utils.data.DataLoader(pictures, batch_size=BATCH, shuffle=True, collate_fn=two_views))

# %%
# What it shows
# -------------
# The norms are those of the 32 numbers of a picture, as a look by hand has them, and not those of its numbers taken one
# by one, of which the middle one is less than a fifth as large.

with torch.no_grad():
    output = model.train().backbone(torch.cat(two_views(list(pictures[:256]))))
print(f"{list(output.shape)}: norm {float(output.flatten(1).norm(dim=1).median()):.1f} by hand")
print(f"norm {course.norms['norm_p50'][0]:.1f} at the start, {course.norms['norm_p50'][-1]:.1f} at the end")

# %%
# .. code-block:: none
#    :caption: With lightly 1.6.0
#
#    [512, 32, 1, 1]: norm 1.4 by hand
#    norm 1.1 at the start, 1.4 at the end

last = course.norms["norm_p50"][-1]
assert abs(float(output.flatten(1).norm(dim=1).median()) / last - 1) < 0.15
assert float(output.abs().median()) < 0.2 * last

figure, axes = plt.subplots()
for quantity, norms in course.norms.items():
    axes.plot(norms, label=quantity)
axes.set(xlabel="step", ylabel="norm of the backbone's vectors", ylim=(0, None))
axes.legend()
plt.show()
