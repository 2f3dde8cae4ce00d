"""
PyTorch Metric Learning: proxies of classes
===========================================

Some losses of `PyTorch Metric Learning <https://kevinmusgrave.github.io/pytorch-metric-learning/>`_ learn a vector a
class and hold it as a parameter, which is a table of embeddings like any other: ``targets=["loss.proxies"]`` follows
it. They normalise what they are given, so that nothing moves norms but the size of the steps and weight decay, and the
law says where they settle.
"""

import matplotlib.pyplot as plt
import torch
from pytorch_metric_learning.losses import ProxyAnchorLoss
from torch import nn

from lightning_normdyn.instruments import NormObserver

# %%
# A hundred classes, rare and common
# ----------------------------------

torch.manual_seed(0)
CLASSES, DIM, BATCH, STEPS = 100, 16, 64, 1200
centres = torch.randn(CLASSES, DIM)
share = 1 / torch.arange(1, CLASSES + 1)


class Metric(nn.Module):
    """An embedder, and the loss with its proxies."""

    def __init__(self):
        super().__init__()
        self.embedder = nn.Sequential(nn.Linear(DIM, 32), nn.ReLU(), nn.Linear(32, DIM))
        self.loss = ProxyAnchorLoss(num_classes=CLASSES, embedding_size=DIM)

    def forward(self, labels):
        return self.loss(self.embedder(centres[labels] + 0.7 * torch.randn(len(labels), DIM)), labels)


model, course = Metric(), []
groups = [
    {"params": model.embedder.parameters(), "lr": 1e-3, "weight_decay": 0.0},
    {"params": model.loss.parameters(), "lr": 0.05, "weight_decay": 0.02},
]
optimizer = torch.optim.SGD(groups)


with NormObserver(
    model,
    optimizer,
    targets=["loss.proxies", "embedder"],
    total_steps=STEPS,
    every_n_steps=50,
    fit_every_n_steps=1,
    log=lambda *news: course.append(news),
):
    for _ in range(STEPS):
        labels = torch.multinomial(share, BATCH, replacement=True)
        optimizer.zero_grad()
        model(labels).backward()
        optimizer.step()
logged = {key: value for metrics, _ in course for key, value in metrics.items()}

# %%
# Where the proxies settle
# ------------------------
# The classes' norms have settled where the law has them, within 2% at the median class; their differences are the law's
# too, with a slope of 1 within 0.1. Under a cosine loss the radial part of a gradient is rounding alone.

for quantity in ("equilibrium_median_error", "equilibrium_slope", "stationarity"):
    print(f"{quantity}: {logged[f'normdyn/loss.proxies/{quantity}']:.3f}")
assert logged["normdyn/loss.proxies/equilibrium_median_error"] < 0.02
assert abs(logged["normdyn/loss.proxies/equilibrium_slope"] - 1) < 0.1
assert logged["normdyn/loss.proxies/radial_fraction"] < 1e-5

# %%
# ``embedder`` has no weight decay here, so its vectors settle nowhere; they grow for as long as steps are made.
# Classifiers such as ``ArcFaceLoss`` hold their classes as the columns of ``W``, ``[d, classes]``: followed as a table,
# it is the rows that are measured, one a dimension.

figure, axes = plt.subplots()
for target in ("loss.proxies", "embedder"):
    points = [
        (step, metrics[f"normdyn/{target}/norm_p50"])
        for metrics, step in course
        if f"normdyn/{target}/norm_p50" in metrics
    ]
    axes.plot(*zip(*points, strict=True), label=f"{target} (median)")
axes.axhline(logged["normdyn/loss.proxies/equilibrium_norm_p50"], color="C0", linestyle=":")
axes.set(xlabel="step", ylabel="norm (dotted: where the law has proxies settle)", ylim=(0, None))
axes.legend()
plt.show()
