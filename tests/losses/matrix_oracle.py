"""InfoNCE with everything that shapes it, as masks over whole score matrices in float64: another way than the loops."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

GAMMAS = {"cosine": (1.0, 1.0), "dot": (0.0, 0.0), "qnorm": (1.0, 0.0), "dnorm": (0.0, 1.0)}


class Leaves(NamedTuple):
    """What the loss is differentiated by; ``None`` where there is none."""

    queries: Tensor
    documents: Tensor
    hard: Tensor | None
    raw_gammas: Tensor | None
    log_scale: Tensor | None
    temperatures: Tensor | None
    weights: Tensor | None


class Pool(NamedTuple):
    """What the anchors of a side choose from, ``[n, c]`` each: scores, and which are positive, which take no part."""

    scores: Tensor
    temperatures: Tensor
    positive: Tensor
    excluded: Tensor
    guides: Tensor | None
    weighed: Tensor


def unit(x):
    return x / x.square().sum(-1, keepdim=True).sqrt()


def powers(x, gamma):
    return x / x.square().sum(-1, keepdim=True).sqrt() ** gamma


def equal(a, b):
    return torch.zeros(1, dtype=torch.bool) if a is None or b is None else a[:, None] == b[None, :]


def losses(leaves, normalization, direction, *, same_side="", rules=None, terms=None, known=None, guides=None):
    """Of every pair, ``[n]``, the mean over directions."""
    rules, terms, known = rules or {}, terms or {}, known or {}
    q, d, hard, raw = leaves.queries, leaves.documents, leaves.hard, leaves.raw_gammas
    n, m = len(q), len(d)
    gammas = GAMMAS[normalization] if raw is None else raw.sigmoid()
    everything = d if hard is None else torch.cat((d, hard.flatten(0, 1)))
    a, b = powers(q, gammas[0]), powers(everything, gammas[1])
    t = leaves.temperatures if leaves.log_scale is None else torch.exp(-leaves.log_scale) * torch.ones(n).double()
    labels, queries, documents = (known.get(name) for name in ("labels", "query_ids", "document_ids"))
    hard_ids = known.get("hard_negative_ids")
    extra = len(everything) - m
    ids = (
        None
        if documents is None
        else torch.cat((documents, torch.full((extra,), -7) if hard_ids is None else hard_ids.flatten()))
    )
    positive = torch.eye(n, m + extra).bool()
    if labels is not None:
        positive = positive | torch.cat((equal(labels[:n], labels), torch.zeros(n, extra).bool()), 1)
    same = torch.zeros(n, m + extra).bool()
    if queries is not None:
        same[:, :n] |= equal(queries, queries)
    if documents is not None:
        same |= equal(documents[:n], ids)
    own = torch.zeros(n, m + extra).bool()
    if hard is not None:
        own[:, m:] = torch.eye(n).bool().repeat_interleave(hard.shape[1], 1)
    kind = rules.get("hardness", "none")
    weighed = {"hard_negatives": own, "in_batch_negatives": ~own, "all_negatives": own | ~own}.get(kind, own & ~own)
    g = None if guides is None else [unit(x.double()) for x in guides]
    seen = None if g is None else g[0] @ torch.cat((g[1], g[2].flatten(0, 1))).T if hard is not None else g[0] @ g[1].T
    pools = {"q": [Pool(a @ b.T, t[:, None].expand(n, m + extra), positive, same & ~positive, seen, weighed)]}
    columns = Pool(
        (a @ b.T)[:, :n], t[:, None].expand(n, n), positive[:, :n], (same & ~positive)[:, :n], None, weighed[:, :n]
    )
    columns = Pool(*(None if x is None else x.T for x in columns))
    pools["d"] = [columns._replace(guides=None if seen is None else seen[:, :n].T)]
    like = {"q": a @ a.T, "d": b[:n] @ b[:n].T}
    near = {"q": None, "d": None} if g is None else {"q": g[0] @ g[0].T, "d": g[1][:n] @ g[1][:n].T}
    itself = torch.eye(n).bool()
    classes = itself & ~itself if labels is None else equal(labels[:n], labels[:n]) & ~itself
    for side in same_side:
        out = (same[:, :n] & ~classes) | itself
        pools[side].append(Pool(like[side], t[:, None].expand(n, n), classes, out, near[side], itself & ~itself))
    lengths = {"q": a.norm(dim=1).detach(), "d": b.norm(dim=1).detach()}
    floors = {
        "q": lengths["q"] * lengths["d"].max() / t.detach(),
        "d": lengths["d"][:n] * (lengths["q"] / t.detach()).max(),
    }
    for side in same_side:
        floors[side] = torch.maximum(floors[side], lengths[side][:n] * lengths[side][:n].max() / t.detach())
    pair, guide = (a @ b.T).diagonal(), None if seen is None else seen.diagonal()
    each = [of_side(pools[side], pair, guide, t, rules, terms, -floors[side]) for side in direction]
    return torch.stack(each).mean(0)


def of_side(pools, pair, guide, t, rules, terms, floor):
    """The losses of one direction."""
    logits, inside, outside = [], [], []
    for pool in pools:
        z, own = pool.scores / pool.temperatures, (pair / t)[:, None].detach()
        fixed = z.detach()
        out = pool.excluded
        if pool.guides is not None:
            bound = guide - rules.get("guide_relative_margin", 0.0) * guide.abs() - rules.get("guide_margin", 0.0)
            out = out | ((pool.guides > bound[:, None]) & ~pool.positive)
        if "negative_margin" in rules:
            out = out | ((fixed > own - rules["negative_margin"] / t.detach()[:, None]) & ~pool.positive)
        if "negative_share" in rules:
            out = out | ((fixed > rules["negative_share"] * own) & ~pool.positive)
        weight = rules.get("hardness_strength", 5.0) * pool.scores.detach() * pool.weighed * ~pool.positive
        logits.append(z + weight)
        inside.append(pool.positive)
        outside.append(out)
    z, positive, out = torch.cat(logits, 1), torch.cat(inside, 1), torch.cat(outside, 1)
    p = pair / t
    p = p - terms.get("relative_margin", 0.0) * p.abs() - terms.get("margin", 0.0) / t
    first = torch.zeros_like(positive)
    first[:, : len(pair)] = torch.eye(len(pair)).bool()
    z = torch.where(first, p[:, None], z)
    negative = ~positive & ~out
    has_negatives, count = negative.any(1), negative.sum(1).clamp(min=1)
    exps = torch.where(has_negatives[:, None] & ~negative, -torch.inf, z).logsumexp(1)
    if terms.get("prior"):
        left = exps.exp() - terms["prior"] * count * (pair / t).exp()
        exps = torch.maximum(left / (1 - terms["prior"]), count * floor.exp()).log()
    exps = exps.where(has_negatives, -torch.inf)
    some = z.where(positive, 0.0).sum(1) / positive.sum(1)
    if terms.get("decoupled"):
        return (exps - some).where(has_negatives, 0.0)
    total = torch.logaddexp(exps, torch.where(positive, z, -torch.inf).logsumexp(1))
    smoothing = terms.get("label_smoothing", 0.0)
    everything = z.where(positive | negative, 0.0).sum(1) / (positive | negative).sum(1)
    return total - (1 - smoothing) * some - smoothing * everything


def reduced(each, reduction, weights):
    """Mean, sum, or with weights that fall along the batch something of all."""
    if reduction == "none":
        return each
    counted = torch.ones_like(each) if weights is None else weights
    return (each * counted).sum() / (counted.sum() if reduction == "mean" else 1)
