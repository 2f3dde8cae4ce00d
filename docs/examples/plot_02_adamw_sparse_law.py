"""
Under AdamW, rows rarer than 1 − β₂ are short
=============================================

Under SGD the norm of a row grows with the size and the number of its gradients. AdamW divides the size out: rows that
get a gradient in most steps all settle at one norm, ``sqrt(lr·d/(2λ))``. Rows that get one more rarely than every
1/(1 − β₂) steps do not, for then the average of squared gradients decays between two of them. The law is ``R² =
lr·d/(2λ) · p/(p + 1 − β₂)``, with p the share of steps in which the row gets a gradient.
"""

# %%
# Rows that differ only in how often they are seen
# ------------------------------------------------
# The gradients are random and tangential, which is what a cosine loss gives, and every row starts where the law says
# that it will settle, so that no steps are spent on getting there.

import matplotlib.pyplot as plt
import torch

from lightning_normdyn.core import equilibrium_rule, split_radial_tangential
from lightning_normdyn.levers import equilibrium_init

torch.manual_seed(0)
shares = torch.logspace(-3, 0, 10)
rows_each, dim, steps = 40, 32, 6000
probability = shares.repeat_interleave(rows_each)
table = torch.nn.Embedding(len(probability), dim)
optimizer = torch.optim.AdamW(table.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.02)
rule = equilibrium_rule(optimizer)
predicted = equilibrium_init(table.weight, rule, update_probability=probability)
print(rule.law)

# %%
# Train on noise
# --------------

mean_square = torch.zeros(len(probability))
for step in range(steps):
    noise = torch.randn_like(table.weight) * (torch.rand(len(probability)) < probability).unsqueeze(1)
    table.weight.grad = split_radial_tangential(noise, table.weight.detach()).tangential
    optimizer.step()
    if step >= steps // 3:
        mean_square += table.weight.detach().square().sum(1) / (steps - steps // 3)
observed = mean_square.reshape(-1, rows_each).mean(1).sqrt()
law = predicted.reshape(-1, rows_each)[:, 0]
deviation = (observed / law - 1).abs()
for share, row in zip(shares, torch.stack((law, observed, deviation), 1), strict=True):
    print(f"p {share:.4f}: law {row[0]:.3f}, observed {row[1]:.3f}, off by {row[2]:.1%}")

# %%
# The law holds within 6% over three decades of p, and within 2% for the rows that get a gradient in at least one of
# fifty steps.

assert deviation.max() < 0.06
assert deviation[shares > 0.02].max() < 0.02

# %%
# Where the curve bends
# ---------------------
# At ``p = 1 − β₂`` the law gives ``R² = ½ · lr·d/(2λ)``. We read the bend off the measured norms alone: the p at which
# the observed R² crosses half of what the most frequent rows have. It lies at 0.019, and 1 − β₂ is 0.020.

squares = observed.square() / observed[-1].square()
above = int((squares > 0.5).nonzero()[0])
low, high = squares[above - 1], squares[above]
weight = (0.5 - low) / (high - low)
bend = float(shares[above - 1] ** (1 - weight) * shares[above] ** weight)
print(f"bend at p = {bend:.4f}, 1 − β₂ = {1 - 0.98:.4f}")
assert abs(bend - 0.019) < 0.0015

figure, axes = plt.subplots()
grid = torch.logspace(-3, 0, 200)
axes.plot(grid, rule.predict(None, dim=dim, update_probability=grid), color="gray", label="law")
axes.scatter(shares, observed, zorder=3, label="observed")
axes.axvline(1 - 0.98, linestyle=":", color="gray")
axes.text(1 - 0.98, float(law[0]), " 1 − β₂")
axes.set(xscale="log", yscale="log", xlabel="share of steps with a gradient, p", ylabel="norm")
axes.set_yticks([0.5, 1, 2, 3], labels=["0.5", "1", "2", "3"])
axes.set_yticks([], minor=True)
axes.legend()
plt.show()
