"""Contrastive losses pair by pair: float64, each anchor's negatives and positives as lists of scores."""

from __future__ import annotations

from typing import NamedTuple

import torch
from contrast_oracle import excluded, ids_of, positives_of, same, same_class
from torch import Tensor


class Anchor(NamedTuple):
    """What a query, or a document, chooses from, as scores over the temperature."""

    negatives: list[Tensor]
    positives: list[Tensor]

    @property
    def candidates(self) -> Tensor:
        return torch.stack([*self.positives, *self.negatives])


def anchors_of(scores, direction, *, labels=None, positives=None, same_side=(), temperatures=None, **ids):
    """The anchors of each direction, ``[n]`` of them; scores over each query's own temperature where it has one."""
    n, m = len(scores.queries), len(scores.documents)
    candidates, known = scores.candidates(), ids_of(ids)
    own = torch.ones(n, dtype=torch.float64) if temperatures is None else temperatures.double().reciprocal()
    s = scores.of(scores.queries, candidates, 0, 1) * own[:, None]
    qq = scores.of(scores.queries, scores.queries, 0, 0) * own[:, None]
    dd = scores.of(scores.documents, scores.documents, 1, 1)[:n, :n] * own[:, None]
    of_query = [positives_of(i, n, m, positives, labels) for i in range(n)]
    made = []
    for side in direction:
        anchors = []
        for i in range(n):
            if side == "q":
                inside = [s[i, j] for j in of_query[i]]
                others = [
                    s[i, j]
                    for j in range(s.shape[1])
                    if j not in of_query[i] and not excluded(i, j, n=n, m=m, positives=(), **known)
                ]
            else:
                inside = [s[k, i] for k in range(n) if i in of_query[k]]
                others = [
                    s[k, i]
                    for k in range(n)
                    if i not in of_query[k] and not excluded(k, i, n=n, m=m, positives=(), **known)
                ]
            if side in same_side:
                like = qq if side == "q" else dd
                others += [like[i, k] for k in range(n) if k != i and not same(i, k, labels, n, m, known)]
                inside += [like[i, k] for k in range(n) if same_class(i, k, labels)]
            anchors.append(Anchor(others, inside))
        made.append(anchors)
    return made


def softmax(anchor, factor=1.0, *, label_smoothing=0.0, margin=0.0, relative_margin=0.0, decoupled=False):
    """The loss of one anchor, as the definition reads."""
    p = [x - relative_margin * x.abs() - margin * factor for x in anchor.positives]
    everything = torch.stack([*p, *anchor.negatives])
    log_sum = torch.stack(anchor.negatives if decoupled else list(everything)).logsumexp(0)
    target = (1 - label_smoothing) * torch.stack(p).mean() + label_smoothing * everything.mean()
    return log_sum - target


def pair_losses(scores, direction, *, temperatures=None, terms=None, **known):
    """Of each pair, ``[n]``, averaged over directions."""
    factor = scores.log_scale.exp() * torch.ones(len(scores.queries), dtype=torch.float64)
    if temperatures is not None:
        factor = temperatures.double().reciprocal()
    directions = anchors_of(scores, direction, temperatures=temperatures, **known)
    losses = [[softmax(a, factor[i], **(terms or {})) for i, a in enumerate(anchors)] for anchors in directions]
    return torch.stack([torch.stack(of_direction) for of_direction in losses]).mean(0)
