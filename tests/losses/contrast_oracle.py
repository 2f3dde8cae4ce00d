"""The contrastive losses as their definitions read: float64, one anchor at a time, every score written down."""

from __future__ import annotations

import torch

GRID = {"cosine": (1.0, 1.0), "dot": (0.0, 0.0), "qnorm": (1.0, 0.0), "dnorm": (0.0, 1.0), "learnable": (None, None)}


class Scores:
    """Scores over temperature of one batch, with leaves to differentiate by."""

    def __init__(self, queries, documents, hard=None, *, normalization, temperature, raw_gammas=(0.0, 0.0)):
        self.queries = queries.detach().double().requires_grad_()
        self.documents = documents.detach().double().requires_grad_()
        self.hard = None if hard is None else hard.detach().double().requires_grad_()
        self.log_scale = torch.tensor(1 / temperature).double().log().requires_grad_()
        self.raw_gammas = torch.tensor(raw_gammas, dtype=torch.float64, requires_grad=True)
        fixed = GRID[normalization]
        self.gammas = self.raw_gammas.sigmoid() if fixed[0] is None else torch.tensor(fixed, dtype=torch.float64)

    def of(self, x, y, x_side, y_side):
        """Between any vectors of any sides (0 for queries), ``[n, m]``."""
        x_power = (x * x).sum(-1).sqrt()[:, None] ** self.gammas[x_side]
        y_power = (y * y).sum(-1).sqrt()[None, :] ** self.gammas[y_side]
        return (x @ y.T) / (x_power * y_power) * self.log_scale.exp()

    def candidates(self):
        """Documents and then hard negatives."""
        return self.documents if self.hard is None else torch.cat((self.documents, self.hard.flatten(0, 1)))


def excluded(i, j, *, n, positives, query_ids=None, document_ids=None, hard_ids=None, m=None):
    """Whether the pair of query i and candidate j is no negative."""
    if j in positives:
        return False
    if query_ids is not None and j < n and query_ids[i] == query_ids[j]:
        return True
    if document_ids is not None:
        other = document_ids[j] if j < m else (None if hard_ids is None else hard_ids[j - m])
        return other is not None and document_ids[i] == other
    return False


def infonce(scores, *, direction, positives=None, labels=None, same_side=(), joint=False, **ids):
    """Mean loss of the anchors of each direction in ``direction``, averaged over directions."""
    n, m = len(scores.queries), len(scores.documents)
    candidates = scores.candidates()
    s = scores.of(scores.queries, candidates, 0, 1)
    known = ids_of(ids)
    of_query = [positives_of(i, n, m, positives, labels) for i in range(n)]
    qq, dd = scores.of(scores.queries, scores.queries, 0, 0), scores.of(scores.documents, scores.documents, 1, 1)
    totals = []
    if joint:
        of_documents = scores.of(scores.documents, candidates, 1, 1)
        theirs = joint == "sentence_transformers"
        return joint_loss(s, qq, of_documents, n, m, direction, same_side, known, theirs=theirs)
    if "q" in direction:
        terms = []
        for i in range(n):
            kept = [s[i, j] for j in range(s.shape[1]) if not excluded(i, j, n=n, m=m, positives=of_query[i], **known)]
            of_class = [qq[i, k] for k in range(n) if "q" in same_side and same_class(i, k, labels)]
            if "q" in same_side:
                kept += [qq[i, k] for k in range(n) if k != i and not same(i, k, labels, n, m, known)] + of_class
            positive_scores = [s[i, j] for j in of_query[i]] + of_class
            terms.append(torch.stack(kept).logsumexp(0) - torch.stack(positive_scores).mean())
        totals.append(torch.stack(terms).mean())
    if "d" in direction:
        terms = []
        for j in range(n):
            mine = [i for i in range(n) if j in of_query[i]]
            kept = [s[i, j] for i in range(n) if not excluded(i, j, n=n, m=m, positives=of_query[i], **known)]
            of_class = [dd[j, k] for k in range(n) if "d" in same_side and same_class(j, k, labels)]
            if "d" in same_side:
                kept += [dd[j, k] for k in range(n) if k != j and not same(j, k, labels, n, m, known)] + of_class
            terms.append(torch.stack(kept).logsumexp(0) - torch.stack([*(s[i, j] for i in mine), *of_class]).mean())
        totals.append(torch.stack(terms).mean())
    return torch.stack(totals).mean()


def joint_loss(s, qq, dd, n, m, direction, same_side, known, *, theirs):
    """Ours or, where documents meet all candidates and a positive counts once a direction, sentence-transformers'."""
    terms = []
    hard = (s.shape[1] - m) // n
    for i in range(n):
        kept = [s[i, i]] * (2 if theirs and len(direction) == 2 else 1)
        if "q" in direction:
            kept += [
                s[i, j] for j in range(s.shape[1]) if j != i and not excluded(i, j, n=n, m=m, positives=(), **known)
            ]
        if "d" in direction:
            kept += [s[j, i] for j in range(n) if j != i and not excluded(j, i, n=n, m=m, positives=(), **known)]
        others = [k for k in range(n) if k != i and not same(i, k, None, n, m, known)]
        kept += [qq[i, k] for k in others if "q" in same_side] + [dd[i, k] for k in others if "d" in same_side]
        if theirs and "d" in same_side:
            further = [j for j in range(n, s.shape[1]) if j < m or (j - m) // hard != i]
            kept += [dd[i, j] for j in further if not excluded(i, j, n=n, m=m, positives=(), **known)]
        terms.append(torch.stack(kept).logsumexp(0) - s[i, i])
    return torch.stack(terms).mean()


def sigmoid(scores, bias, *, positives=None, labels=None, **ids):
    """Sum over all pairs, each judged by itself, over the number of queries."""
    n, m = len(scores.queries), len(scores.documents)
    s = scores.of(scores.queries, scores.candidates(), 0, 1) + bias
    total = s.new_zeros(())
    for i in range(n):
        mine = positives_of(i, n, m, positives, labels)
        for j in range(s.shape[1]):
            if not excluded(i, j, n=n, m=m, positives=mine, **ids_of(ids)):
                total = total - torch.nn.functional.logsigmoid(s[i, j] if j in mine else -s[i, j])
    return total / n


def positives_of(i, n, m, positives, labels):
    if labels is not None:
        return [j for j in range(m) if labels[j] == labels[i]]
    listed = [] if positives is None else [j for j in positives[i].tolist() if j >= 0]
    return sorted({i, *listed})


def same_class(i, k, labels):
    """Whether two different vectors of one side are positives of each other."""
    return i != k and labels is not None and bool(labels[i] == labels[k])


def same(i, k, labels, n, m, known):
    """Whether two vectors of one side belong to the same query, document or class."""
    return excluded(i, k, n=n, m=m, positives=(), **known) or (labels is not None and bool(labels[i] == labels[k]))


def ids_of(ids):
    hard = ids.get("hard_negative_ids")
    return {
        "query_ids": ids.get("query_ids"),
        "document_ids": ids.get("document_ids"),
        "hard_ids": None if hard is None else hard.flatten(),
    }
