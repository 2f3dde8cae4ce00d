"""
Where will the norms be at the end of the schedule?
===================================================

Under a falling learning rate norms never settle, so the equilibrium is not where they end. The recursion behind it
can be followed through the rates that are still to come: from 40% of a run, with the gradients' size measured so far,
it says what each row's norm will be at the end. We hold that against the simplest forecast, 'stays as it is'. The
share of the simple forecast's error that is avoided is called the skill: 1 is perfect, 0 is no better than 'stays as
it is'.
"""

import tempfile

import matplotlib.pyplot as plt
import torch

from lightning_normdyn.history import read_run
from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.losses import InfoNCE

# %%
# A Zipf vocabulary, SGD and a cosine schedule
# --------------------------------------------

torch.manual_seed(0)
words, topics, batch, steps = 400, 40, 128, 4000
share = 1 / torch.arange(1, words + 1)
members = torch.arange(words).reshape(-1, topics)
share_in_topic = share[members].T


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Words [batch] drawn by their share, and for each another word of its topic."""
    first = torch.multinomial(share, batch, replacement=True)
    place = torch.multinomial(share_in_topic[first % topics], 1).squeeze(1)
    return first, members[place, first % topics]


table = torch.nn.Embedding(words, 32)
torch.nn.init.normal_(table.weight, std=0.6)
optimizer = torch.optim.SGD(table.parameters(), lr=2.0, momentum=0.5, weight_decay=2e-4)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
loss = InfoNCE(temperature=0.2)
folder, scalars = tempfile.mkdtemp(), {}
with NormObserver(
    table,
    optimizer,
    scheduler=scheduler,
    total_steps=steps,
    fit_every_n_steps=1,
    forecast_at=0.4,
    log=lambda metrics, step: scalars.update(metrics),
    log_dir=folder,
):
    for _ in range(steps):
        queries, documents = pairs()
        optimizer.zero_grad()
        loss(table(queries), table(documents), query_ids=queries, document_ids=documents).backward()
        optimizer.step()
        scheduler.step()

# %%
# What came of the forecast
# -------------------------
# The median word's norm was forecast within 3%; 'stays as it is' is wrong by more than half. The skill is above 0.95.

forecast_error = scalars["normdyn/weight/forecast_median_error"]
unchanged_error = scalars["normdyn/weight/persistence_median_error"]
skill = scalars["normdyn/weight/forecast_skill"]
print(f"forecast {forecast_error:.1%}, 'stays as it is' {unchanged_error:.1%}, skill {skill:.2f}")

assert forecast_error < 0.03
assert unchanged_error > 0.5
assert skill > 0.95

# %%
# The equilibrium law alone would have been no help: at the end the rate is close to 0 and so is the norm at which rows
# would settle, but there are no steps left to get there.
#
# Each dot on the right is a word: what was forecast at step 1,600, and what it was at step 4,000.

trajectory = read_run(folder)["weight"].trajectory()
step, row = trajectory["step"].to_numpy(), trajectory["row"].to_numpy()
norm, forecast = trajectory["norm"].to_numpy(), trajectory["forecast_norm"].to_numpy()
forecast_step = int(0.4 * steps)

figure, (course, scatter) = plt.subplots(1, 2, figsize=(9, 3.8))
for word, color in zip((0, 3, 30), ("C0", "C1", "C2"), strict=True):
    course.plot(step[row == word], norm[row == word], color=color, label=f"rank {word + 1}")
    made = forecast[(row == word) & (step == forecast_step)][0]
    course.plot([forecast_step, steps], [made, made], color=color, linestyle=":")
course.axvline(forecast_step, color="gray", linewidth=0.8)
course.set(xlabel="step", ylabel="norm (dotted: forecast of the end)")
course.legend()
at_forecast, at_end = step == forecast_step, step == steps
scatter.scatter(norm[at_forecast], norm[at_end], s=10, color="lightgray", label="stays as it is")
scatter.scatter(forecast[at_forecast], norm[at_end], s=10, label="forecast")
ends = [norm[at_end].min(), norm[at_end].max()]
scatter.plot(ends, ends, color="black", linewidth=0.8)
scatter.set(xlabel="said at step 1,600", ylabel="norm at step 4,000")
scatter.legend()
plt.show()
