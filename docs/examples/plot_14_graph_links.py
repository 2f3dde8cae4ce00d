"""
torch_geometric: predicting links
=================================

A graph network encodes all nodes in one call, and what a node's vector is depends on its neighbours. A probe must
therefore hold all nodes, ``probe_items=`` as many as there are: the first 64, as by default, cannot be encoded without
the others, which a warning would say. We train a GCN of
`torch_geometric <https://pytorch-geometric.readthedocs.io>`_ to tell links from pairs that are none.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GCN
from torch_geometric.utils import coalesce, to_undirected

from lightning_normdyn.instruments import NormObserver

# %%
# A graph of communities
# ----------------------

torch.manual_seed(0)
NODES, COMMUNITIES, DIM, STEPS = 200, 8, 16, 600
first = torch.randint(NODES, (1200,))
second = (first + COMMUNITIES * torch.randint(NODES // COMMUNITIES, (1200,))) % NODES
links = coalesce(to_undirected(torch.stack((first, second))[:, first != second]))
features = F.one_hot(torch.arange(NODES) % COMMUNITIES, DIM) + torch.randn(NODES, DIM)


class Links(nn.Module):
    """Scores of pairs by the inner products of a graph network's vectors."""

    def __init__(self):
        super().__init__()
        self.encoder = GCN(DIM, hidden_channels=32, num_layers=2, out_channels=DIM, bias=False)

    def forward(self, pairs):
        source, sink = self.encoder(features, links)[pairs]
        return (source * sink).sum(1)


# %%
# Training
# --------

model, course = Links(), []
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.1)
with NormObserver(
    model,
    optimizer,
    targets=["encoder"],
    probe_items=NODES,
    total_steps=STEPS,
    every_n_steps=20,
    log=lambda *news: course.append(news),
):
    for _ in range(STEPS):
        others = torch.randint(NODES, links.shape)
        scores = model(torch.cat((links, others), 1))
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(scores, (torch.arange(len(scores)) < links.shape[1]).float()).backward()
        optimizer.step()
logged = {key: value for metrics, _ in course for key, value in metrics.items()}

# %%
# What it shows
# -------------
# Two layers without biases: weight decay shrinks a vector twice as fast as each layer, ``radial_decay_ratio`` is 2. The
# score is an inner product, so the loss itself pushes vectors outward; ``drift_share`` says that this puts back most of
# what decay takes, and the size of the steps the rest (``growth_share``). Nodes with many links are pushed out the
# more: numbers of links and lengths of vectors have a correlation above 0.7.

with torch.no_grad():
    norms = model.encoder(features, links).norm(dim=1)
degrees = torch.bincount(links[0], minlength=NODES)
correlation = float(torch.corrcoef(torch.stack((degrees.float(), norms)))[0, 1])
for quantity in ("radial_decay_ratio", "drift_share", "growth_share"):
    print(f"{quantity}: {logged[f'normdyn/encoder/{quantity}']:.2f}")
print(f"correlation of norms and numbers of links: {correlation:.2f}")
assert abs(logged["normdyn/encoder/radial_decay_ratio"] - 2) < 1e-3
assert logged["normdyn/encoder/drift_share"] > 0.7
assert 0 < logged["normdyn/encoder/growth_share"] < 0.3
assert correlation > 0.7

figure, axes = plt.subplots()
axes.scatter(degrees, norms, s=10)
axes.set(xlabel="links of the node", ylabel="norm of its vector", ylim=(0, None))
plt.show()
