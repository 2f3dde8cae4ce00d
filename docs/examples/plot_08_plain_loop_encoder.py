"""
A plain loop, and an encoder's balance
======================================

Without Lightning :class:`~lightning_normdyn.instruments.NormObserver` listens to the optimizer as a context manager,
and nothing in the loop changes. The output of an encoder moves with all weights, so its norm is the balance of three
terms: weight decay that acts through the network, the random growth of steps, and drift. The observer measures them
on a fixed probe.
"""

import matplotlib.pyplot as plt
import torch

from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.losses import InfoNCE

# %%
# Two ReLU layers without biases
# ------------------------------
# Scaling all weights of such a network by c scales its output by c², so weight decay shrinks the output twice as fast
# as each layer: ``radial_decay_ratio`` is 2.

torch.manual_seed(0)
encoder = torch.nn.Sequential(torch.nn.Linear(16, 64, bias=False), torch.nn.ReLU(), torch.nn.Linear(64, 16, bias=False))
model = torch.nn.ModuleDict({"encoder": encoder})
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-3)
loss = InfoNCE(temperature=0.1)
items = torch.randn(512, 16)
steps, course = 3000, []
with NormObserver(
    model, optimizer, targets=["encoder"], total_steps=steps, log=lambda metrics, step: course.append((step, metrics))
):
    for _ in range(steps):
        batch = items[torch.randint(512, (64,))]
        vectors = encoder(torch.cat([batch + 0.5 * torch.randn_like(batch), batch]))
        optimizer.zero_grad()
        loss(*vectors.chunk(2)).backward()
        optimizer.step()

# %%
# The three terms
# ---------------
# ``radial_decay_ratio`` came out as 2.00. Once settled, growth and drift together put back what decay takes: their
# shares add up to 1 within 15%.

last = {key.split("/")[-1]: value for _, metrics in course for key, value in metrics.items()}
print(f"ratio {last['radial_decay_ratio']:.4f}, growth {last['growth_share']:.2f}, drift {last['drift_share']:.2f}")
assert abs(last["radial_decay_ratio"] - 2) < 0.005
assert abs(last["growth_share"] + last["drift_share"] - 1) < 0.15


def series(quantity: str) -> tuple[list[int], list[float]]:
    """Steps and values at which a quantity was logged."""
    key = f"normdyn/encoder/{quantity}"
    logged = [(step, metrics[key]) for step, metrics in course if key in metrics]
    return [step for step, _ in logged], [value for _, value in logged]


figure, (norms, shares) = plt.subplots(1, 2, figsize=(9, 3.6))
for quantity in ("norm_p05", "norm_p50", "norm_p95"):
    norms.plot(*series(quantity), label=quantity)
norms.set(xlabel="step", ylabel="norm of outputs", ylim=(0, None))
norms.legend()
for quantity in ("growth_share", "drift_share"):
    shares.plot(*series(quantity), marker=".", label=quantity)
shares.axhline(1, color="gray", linestyle=":")
shares.set(xlabel="step", ylabel="share of what decay takes", ylim=(-0.25, 1.25))  # the first window is far off
shares.legend()

# %%
# The norm at which the three terms balance is the observed one within 5% at the median item, now that the encoder has
# settled (``stationarity`` above 0.95).

print(f"stationarity {last['stationarity']:.3f}, median error {last['equilibrium_median_error']:.1%}")
assert last["stationarity"] > 0.95
assert last["equilibrium_median_error"] < 0.05
plt.show()
