"""
One word swaps the loss: the 2×2 grid
=====================================

``score = <q, d> / (‖q‖^γ_q · ‖d‖^γ_d)``: a γ of 1 throws the length of that side away, a γ of 0 keeps it. A gradient
has a radial part, which changes the length of a vector, exactly where the loss sees that length.
"""

import matplotlib.pyplot as plt
import torch

from lightning_normdyn.core import NORMALIZATIONS, split_radial_tangential
from lightning_normdyn.losses import InfoNCE

# %%
# What share of each gradient is radial
# -------------------------------------

torch.manual_seed(0)
documents = torch.randn(256, 32) * torch.rand(256, 1).add(0.5)
queries = documents + torch.randn(256, 32)


def radial_share(gradient: torch.Tensor, vectors: torch.Tensor) -> float:
    """Length of the radial part of a batch of gradients over their whole length."""
    return float(split_radial_tangential(gradient, vectors).radial.norm() / gradient.norm())


shares = {}
for name in NORMALIZATIONS:
    sides = [queries.clone().requires_grad_(), documents.clone().requires_grad_()]
    gradients = torch.autograd.grad(InfoNCE(normalization=name, temperature=0.5)(*sides), sides)
    shares[name] = [radial_share(gradient, side.detach()) for gradient, side in zip(gradients, sides, strict=True)]
    print(f"{name:7} queries {shares[name][0]:.1e}, documents {shares[name][1]:.1e}")

# %%
# A side whose length the loss throws away has a radial share of rounding, below 1e-6; one whose length it keeps has
# more than a tenth.

for name, (gamma_query, gamma_document) in NORMALIZATIONS.items():
    for gamma, share in zip((gamma_query, gamma_document), shares[name], strict=True):
        assert share < 1e-6 if gamma == 1 else share > 0.1

figure, axes = plt.subplots()
places = torch.arange(len(shares))
axes.bar(places - 0.2, [share[0] for share in shares.values()], 0.4, label="queries")
axes.bar(places + 0.2, [share[1] for share in shares.values()], 0.4, label="documents")
axes.set(yscale="log", ylabel="radial share of the gradient", ylim=(1e-9, 3))
axes.set_xticks(places, list(shares))
axes.legend()

# %%
# What that does to lengths
# -------------------------
# The same two towers, trained with each of the four. Under the cosine nothing but weight decay and the size of the
# steps moves the lengths. Where a side is free in length, the loss itself makes it longer, for longer vectors make
# sharper scores. Documents grow by a factor of 1.15 with ``cosine`` and ``dnorm``, which do not see their length, 1.5
# with ``dot`` and 3.8 with ``qnorm``, where they are the only side that can grow.


def train(name: str) -> list[float]:
    """Mean norm of documents after each of 400 steps."""
    torch.manual_seed(1)
    query, document = torch.nn.Linear(32, 16, bias=False), torch.nn.Linear(32, 16, bias=False)
    optimizer = torch.optim.AdamW([*query.parameters(), *document.parameters()], lr=3e-3)
    loss = InfoNCE(normalization=name, temperature=0.5)
    course = []
    for _ in range(400):
        optimizer.zero_grad()
        vectors = document(documents)
        loss(query(queries), vectors).backward()
        optimizer.step()
        course.append(float(vectors.norm(dim=1).mean()))
    return course


courses = {name: train(name) for name in NORMALIZATIONS}
growth = {name: course[-1] / course[0] for name, course in courses.items()}
print({name: round(factor, 2) for name, factor in growth.items()})

for name, factor in {"cosine": 1.15, "dot": 1.5, "qnorm": 3.8, "dnorm": 1.15}.items():
    assert abs(growth[name] / factor - 1) < 0.1

figure, axes = plt.subplots()
for name, course in courses.items():
    axes.plot(course, label=name)
axes.set(xlabel="step", ylabel="mean norm of documents")
axes.legend()
plt.show()
