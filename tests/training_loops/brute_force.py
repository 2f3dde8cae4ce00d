"""What the callbacks ought to log, worked out from full float64 copies by formulas of the theory, row by row."""

from __future__ import annotations

import math

import numpy as np


def expected_norms(steps):
    """Summary of the norms after the last of some steps, over the rows that got a gradient in any of them."""
    met = np.any([step.gradient.numpy().any(1) for step in steps], axis=0)
    norms = np.array([math.hypot(*row) for row in steps[-1].after[met].tolist()])
    return {
        "norm_mean": norms.mean(),
        "norm_min": norms.min(),
        "norm_cv": norms.std() / norms.mean(),
        **{f"norm_p{q:02d}": np.quantile(norms, q / 100) for q in (5, 50, 95)},
    }


def expected_split(step, *, effective_lr, decay_rate, rows=slice(None)):
    """Gradient, update and budget of one step.

    Args:
        step: what the plain loop saw.
        effective_lr: learning rate over (1 - momentum).
        decay_rate: share of a row that weight decay takes in the step; ``None`` where it cannot be told apart.
        rows: those whose update is tracked.
    """
    before, after = step.before.numpy()[rows], step.after.numpy()[rows]
    update = after - before
    shrunk = -(decay_rate or 0.0) * before
    alive = [i for i in range(len(before)) if before[i].any()]
    square = {i: before[i] @ before[i] for i in alive}

    def mean(term):
        return sum(term(i) / square[i] for i in alive) / len(alive)

    touched = [i for i in range(len(step.before)) if step.gradient[i].any() and step.before[i].any()]
    return {
        "gradient_norm": math.sqrt((step.raw.numpy() ** 2).sum()),
        "clip_ratio": math.sqrt((step.gradient.numpy() ** 2).sum() / (step.raw.numpy() ** 2).sum()),
        "radial_fraction": _radial_fraction(step.gradient.numpy(), step.before.numpy()),
        "update_radial_fraction": _radial_fraction(update, before),
        "angular_update": math.sqrt(sum(_angle(before[i], after[i]) ** 2 for i in alive) / len(alive)),
        "budget_decay": mean(lambda i: 2 * before[i] @ shrunk[i]),
        "budget_drift": mean(lambda i: 2 * before[i] @ (update[i] - shrunk[i])),
        "budget_growth": mean(lambda i: update[i] @ update[i]),
        "effective_lr": effective_lr
        * sum(1 / math.hypot(*step.before[i].tolist()) ** 2 for i in touched)
        / len(touched),
    }


def budget_total(step, rows=slice(None)):
    """Mean relative change of the squared norms in one step, from the norms alone."""
    before, after = (np.square(weights.numpy()[rows]).sum(1) for weights in (step.before, step.after))
    alive = before > 0
    return ((after - before)[alive] / before[alive]).mean()


def expected_moments(steps, rows=slice(None)):
    """``V² = E|R·g_tan|²`` and the share of steps with a gradient, per row."""
    squares, touched = _sources(steps, rows)
    return squares.mean(0), touched.mean(0)


def expected_kurtosis(steps, rows=slice(None)):
    """``E[s⁴]/E[s²]²`` over the steps with a gradient, per row; NaN without one."""
    squares, touched = _sources(steps, rows)
    count = np.where(touched.any(0), touched.sum(0), np.nan)
    return (squares**2).sum(0) / count / (squares.sum(0) / count) ** 2


def _sources(steps, rows):
    """``|R·g_tan|²`` of each step and whether there is a gradient, ``[steps, rows]``."""
    squares, touched = [], []
    for step in steps:
        before, gradient = step.before.numpy()[rows], step.gradient.numpy()[rows]
        radius = np.linalg.norm(before, axis=1, keepdims=True)
        direction = np.divide(before, radius, out=np.zeros_like(before), where=radius > 0)
        tangential = gradient - (gradient * direction).sum(1, keepdims=True) * direction
        squares.append(((radius * tangential) ** 2).sum(1))
        touched.append(gradient.any(1))
    return np.array(squares), np.array(touched)


def sgd_path(norm, second_moment, effective_lrs, decay):
    """``R⁴(t+1) = (1 - a)⁴·R⁴(t) + 2·(1 - a)²·e²·V²``, step by step."""
    fourth = norm**4
    for lr in effective_lrs:
        kept = 1 - lr * decay
        fourth = kept**4 * fourth + 2 * kept**2 * lr**2 * second_moment
    return fourth**0.25


def adamw_path(norm, probability, lrs, decay, dim, beta2, amendment=1.0):
    """``R²(t+1) = (1 - a)²·R²(t) + lr²·d·p/(1 - beta2 + p·R²·w)``, ``w`` the mean of 1/R² that beta2 remembers.

    The last term times the amendment.
    """
    square = norm**2
    remembered = 1 / square
    for lr in lrs:
        source = amendment * dim * probability / (1 - beta2 + probability * square * remembered)
        remembered = beta2 * remembered + (1 - beta2) / square
        square = (1 - lr * decay) ** 2 * square + lr**2 * source
    return square**0.5


def expected_balance(steps, effective_lr, decay):
    """The root of the balance equation fed with a window's own telescoped drift and growth, and the stationarity."""
    squares = [np.square(step.after.numpy()).sum(1) for step in steps]
    start = np.square(steps[0].before.numpy()).sum(1)
    growth = np.mean([np.square((step.after - step.before).numpy()).sum(1) for step in steps], axis=0)
    mean_square = np.mean(squares, axis=0)
    change = (squares[-1] - start) / len(steps)
    shrinking = 2 * effective_lr * decay * mean_square
    drift = (change + shrinking - growth) / (2 * effective_lr)
    second = growth * mean_square / effective_lr**2
    roots = [max(np.roots([decay, -d, -effective_lr * v / 2]).real) ** 0.5 for d, v in zip(drift, second, strict=True)]
    gross = shrinking.sum() + np.abs(2 * effective_lr * drift).sum() + growth.sum()
    return np.array(roots), 1 - abs(change.sum()) / gross


def log_log(predicted, observed):
    """Slope, correlation and median relative error of observed on predicted norms."""
    x, y = np.log(predicted), np.log(observed)
    return {
        "slope": np.polyfit(x, y, 1)[0],
        "pearson_r": np.corrcoef(x, y)[0, 1],
        "r2": np.corrcoef(x, y)[0, 1] ** 2,
        "median_error": np.median(np.abs(predicted - observed) / observed),
    }


def _radial_fraction(vectors, embeddings):
    along = whole = 0.0
    for vector, embedding in zip(vectors, embeddings, strict=True):
        whole += vector @ vector
        if embedding.any():
            along += (vector @ embedding) ** 2 / (embedding @ embedding)
    return math.sqrt(along / whole)


def _angle(before, after):
    """The angle by which a row turned, from the chord between the two directions: exact for small angles."""
    chord = np.linalg.norm(after / np.linalg.norm(after) - before / np.linalg.norm(before))
    return 2 * math.asin(chord / 2)
