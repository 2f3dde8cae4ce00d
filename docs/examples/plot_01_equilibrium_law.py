"""
The equilibrium law on a Zipf table
===================================

Words of a text follow Zipf's law: word number k occurs about 1/k times as often as the first. We train an embedding
table on such words with a cosine loss under SGD with weight decay, let the norms settle, and hold each of them
against the closed form ``R⁴ = e·V²/(2λ)``, in which nothing is fitted: the learning rate and the weight decay come
from the optimizer, and ``V²`` from the gradients of the row.
"""

# %%
# Words and topics
# ----------------
# A word belongs to one of 40 topics, and two words that stand together come from one topic. The loss is a cosine, so
# it does not see the norms at all.

import tempfile

import matplotlib.pyplot as plt
import torch

from lightning_normdyn.core import fit_log_log
from lightning_normdyn.history import read_run
from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.losses import InfoNCE

torch.manual_seed(0)
words, topics, batch, steps = 400, 40, 128, 4000
share = 1 / torch.arange(1, words + 1)
share /= share.sum()
members = torch.arange(words).reshape(-1, topics)  # word k belongs to topic k mod 40
share_in_topic = share[members] / share[members].sum(0)


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Words [batch] drawn by their share, and for each another word of its topic."""
    first = torch.multinomial(share, batch, replacement=True)
    place = torch.multinomial(share_in_topic.T[first % topics], 1).squeeze(1)
    return first, members[place, first % topics]


# %%
# Train, and let the observer listen
# ----------------------------------

table = torch.nn.Embedding(words, 32)
optimizer = torch.optim.SGD(table.parameters(), lr=2.0, momentum=0.5, weight_decay=5e-4)
loss = InfoNCE(temperature=0.2)
folder = tempfile.mkdtemp()
scalars = {}
observer = NormObserver(
    table,
    optimizer,
    total_steps=steps,
    fit_every_n_steps=1,
    window=1600,
    log=lambda metrics, step: scalars.update(metrics),
    log_dir=folder,
)
with observer:
    for _ in range(steps):
        queries, documents = pairs()
        optimizer.zero_grad()
        loss(table(queries), table(documents), query_ids=queries, document_ids=documents).backward()
        optimizer.step()

# %%
# Predicted and observed
# ----------------------
# The history on disk holds, for each row, the norm that the law predicts and the mean norm of the last window. Over
# all 400 words the slope of log observed on log predicted is 0.96 and r is 0.99; the median word is off by less than
# 3%.

trajectory = read_run(folder)["weight"].trajectory()
steps_of_rows = trajectory["step"].to_numpy()
last = steps_of_rows == steps_of_rows.max()
predicted = torch.from_numpy(trajectory["equilibrium_norm"].to_numpy()[last].copy())
observed = torch.from_numpy(trajectory["mean_norm"].to_numpy()[last].copy())
fit = fit_log_log(predicted, observed)
print(f"slope {fit.slope:.3f}, r {fit.pearson_r:.3f}, median error {fit.median_relative_error:.1%}")

assert abs(fit.slope - 0.96) < 0.04
assert abs(fit.pearson_r - 0.99) < 0.01
assert fit.median_relative_error < 0.03

figure, (scatter, course) = plt.subplots(1, 2, figsize=(9, 3.8))
points = scatter.scatter(predicted, observed, c=torch.arange(words) + 1, norm="log", s=12)
ends = [float(predicted.min()), float(predicted.max())]
scatter.plot(ends, ends, color="gray", linewidth=1)
scatter.set(xlabel="predicted norm", ylabel="observed norm", xscale="log", yscale="log")
for axis in (scatter.xaxis, scatter.yaxis):
    axis.set_ticks([0.3, 0.5, 1.0, 1.5], labels=["0.3", "0.5", "1", "1.5"])
    axis.set_ticks([], minor=True)
figure.colorbar(points, label="rank of the word")
for word in (0, 3, 30, 300):
    rows = trajectory["row"].to_numpy() == word
    course.plot(steps_of_rows[rows], trajectory["norm"].to_numpy()[rows], label=f"rank {word + 1}")
course.set(xlabel="step", ylabel="norm")
course.legend()

# %%
# Frequent words are long because they are pushed often: ``V²`` counts the steps without a gradient as zeros, so it
# grows with the share of steps in which a word occurs. The law says what that does to the norm: it grows as the fourth
# root.
#
# The observer logs the same line as ``equilibrium_least_squares_slope``, and that the norms had settled
# (``stationarity`` above 0.9). ``equilibrium_slope`` weighs each word by what chance does to it, so that rare words,
# whose predictions are noisy, do not flatten the line: it is 1 within 0.05.

assert scalars["normdyn/weight/stationarity"] > 0.9
assert abs(scalars["normdyn/weight/equilibrium_least_squares_slope"] - fit.slope) < 1e-3
assert abs(scalars["normdyn/weight/equilibrium_slope"] - 1) < 0.05
plt.show()
