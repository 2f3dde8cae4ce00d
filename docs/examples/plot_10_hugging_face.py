"""
In the Trainer of transformers
==============================

The same numbers come out of Hugging Face's Trainer: one callback, lent the trainer's own ``log``. We train a tiny
BERT with random weights on random sentences; what matters here is what is logged.
"""

import tempfile

import matplotlib.pyplot as plt
import torch
from transformers import BertConfig, BertForMaskedLM, PrinterCallback, Trainer, TrainingArguments

from lightning_normdyn.integrations.hugging_face import NormDynamicsTrainerCallback

# %%
# A model and sentences
# ---------------------
# The words follow Zipf's law and each stands there twice, so that a masked word can be read off its neighbour.

torch.manual_seed(0)
config = BertConfig(
    vocab_size=300,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=16,
    tie_word_embeddings=False,
)
share = 1 / torch.arange(1, 300).float()
words = 1 + torch.multinomial(share, 4096 * 8, replacement=True).reshape(4096, 8).repeat_interleave(2, dim=1)
masked = torch.where(torch.rand(words.shape) < 0.2, 0, words)
sentences = [
    {"input_ids": seen, "labels": torch.where(seen == 0, whole, -100)}
    for seen, whole in zip(masked, words, strict=True)
]

# %%
# The callback
# ------------

folder = tempfile.mkdtemp()
arguments = TrainingArguments(
    output_dir=folder,
    num_train_epochs=6,
    per_device_train_batch_size=32,
    learning_rate=3e-3,
    weight_decay=0.1,
    report_to=[],
    save_strategy="no",
    logging_steps=50,
    disable_tqdm=True,
    use_cpu=True,
    seed=0,
)
trainer = Trainer(BertForMaskedLM(config), arguments, train_dataset=sentences)
table = "bert.embeddings.word_embeddings.weight"
trainer.add_callback(NormDynamicsTrainerCallback(log=trainer.log, targets=[table], every_n_steps=20))
trainer.remove_callback(PrinterCallback)  # the page needs no lines of the log
_ = trainer.train()

# %%
# What was logged
# ---------------
# Everything stands in ``trainer.state.log_history``, and goes to every reporter of the Trainer.

prefix = f"normdyn/{table}/"
logged: dict[str, list[tuple[int, float]]] = {}
for entry in trainer.state.log_history:
    for key, value in entry.items():
        if key.startswith(prefix):
            logged.setdefault(key.removeprefix(prefix), []).append((entry["step"], value))
last = {quantity: course[-1][1] for quantity, course in logged.items()}
print(f"{len(logged)} quantities; {trainer.state.global_step} steps; relaxation {last['relaxation_steps']:.0f} steps")

# %%
# How to read it
# --------------
# ``relaxation_steps`` ended at 16,000, and the run made 768 steps: weight decay had next to no say in where the norms
# are. They tripled all the same. A softmax over words sees lengths, unlike a cosine loss (``radial_fraction`` is above
# 0.2, not 1e-7), and it pushed outward: ``budget_drift`` was positive in the median step, and larger than
# ``budget_growth``.

medians = {
    quantity: torch.tensor([value for _, value in logged[quantity]]).median()
    for quantity in ("budget_drift", "budget_growth", "radial_fraction")
}
print({quantity: f"{float(value):.1e}" for quantity, value in medians.items()})
assert trainer.state.global_step == 768
assert abs(last["relaxation_steps"] / 16_000 - 1) < 0.01
assert 2.5 < last["norm_p50"] / logged["norm_p50"][0][1] < 4
assert last["radial_fraction"] > 0.2
assert medians["budget_drift"] > medians["budget_growth"] > 0

figure, axes = plt.subplots()
for quantity in ("norm_p05", "norm_p50", "norm_p95"):
    axes.plot(*zip(*logged[quantity], strict=True), label=quantity)
axes.set(xlabel="step", ylabel="norm of word embeddings", ylim=(0, None))
axes.legend()
plt.show()
