"""What a batch says beside its loss, against the matrix of all scores in float64."""

from __future__ import annotations

import contrast_oracle as oracle
import pytest
import torch
from test_infonce import DIRECTIONS, batch

from lightning_normdyn.losses import ContrastiveMixin, InfoNCE, SigmoidContrastive
from lightning_normdyn.losses.euclidean import SquaredEuclidean

GAMMAS = {"cosine": (1, 1), "dot": (0, 0), "qnorm": (1, 0), "dnorm": (0, 1), "learnable": (0.5, 0.5)}


def expected_metrics(queries, documents, hard, *, normalization, direction, ids, temperature):
    """From every pair, one at a time."""
    n, m = len(queries), len(documents)
    q, d = queries.double(), torch.cat((documents, hard.flatten(0, 1))).double()
    cosines = torch.nn.functional.normalize(q) @ torch.nn.functional.normalize(d).T
    gammas = GAMMAS[normalization]
    lengths = q.norm(dim=1) ** (1 - gammas[0]), d.norm(dim=1) ** (1 - gammas[1])
    s = cosines * lengths[0][:, None] * lengths[1]
    negatives = [[j for j in range(len(d)) if j != i and not (j < m and ids[i] == ids[j])] for i in range(n)]
    if direction == "d":
        negatives = [[k for k in range(n) if i in negatives[k]] for i in range(n)]
        ranks = [1 + sum(bool(s[k, i] > s[i, i]) for k in negatives[i]) for i in range(n)]
        d, cosines, lengths = d[:m], cosines[:, :m], (lengths[0], lengths[1][:m])
        pairs = [(k, j) for k in range(n) for j in range(n) if j != k and ids[k] != ids[j]]
    else:
        ranks = [1 + sum(bool(s[i, j] > s[i, i]) for j in negatives[i]) for i in range(n)]
        pairs = [(i, j) for i in range(n) for j in negatives[i]]
    near = torch.stack([torch.exp(4 * cosines[i, j] - 4) for i, j in pairs])
    return {
        "accuracy": sum(rank == 1 for rank in ranks) / n,
        "mean_rank": sum(ranks) / n,
        "alignment": float((2 - 2 * cosines.diagonal()[:n]).mean()),
        "uniformity": float(near.mean().log()),
        "effective_temperature": temperature / float(lengths[0].mean() * lengths[1].mean()),
    }


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("normalization", oracle.GRID)
def test_metrics_are_those_of_the_matrix(normalization, direction):
    for number, chunk_size in enumerate((None, 4)):
        queries, documents, hard, _ = batch({"hard": True}, seed=number, spread=0.3)
        documents[: len(queries)] += queries
        ids = torch.tensor([0, 1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 1, 10])
        loss = InfoNCE(
            normalization=normalization,
            temperature=0.4,
            with_metrics=True,
            chunk_size=chunk_size,
            **DIRECTIONS[direction],
        )
        assert loss.metrics() == {}
        given = {} if direction == "d" else {"hard_negatives": hard}
        value = loss(queries, documents, document_ids=ids, **given)
        plain = InfoNCE(normalization=normalization, temperature=0.4, **DIRECTIONS[direction])
        expected_value = plain(queries, documents, document_ids=ids, **given)
        torch.testing.assert_close(value, expected_value, rtol=1e-6, atol=0)
        expected = expected_metrics(
            queries, documents, hard, normalization=normalization, direction=direction, ids=ids, temperature=0.4
        )
        got = {name: float(metric) for name, metric in loss.metrics().items()}
        assert got == pytest.approx(expected, rel=1e-5), (got, expected)


def test_metrics_of_a_distance_are_those_of_its_ranking_alone():
    loss = InfoNCE(with_metrics=True)
    loss.similarity = SquaredEuclidean()
    loss(torch.eye(3), torch.eye(3)[[1, 0, 2]])
    assert {name: float(x) for name, x in loss.metrics().items()} == pytest.approx(
        {"accuracy": 1 / 3, "mean_rank": 5 / 3}
    )


def test_a_loss_that_keeps_none_says_so():
    for loss in (InfoNCE(), SigmoidContrastive()):
        with pytest.raises(ValueError, match=r"^with_metrics: this .* keeps no metrics"):
            loss.metrics()


def test_the_mixin_logs_them_while_training():
    class Trainer:
        training, optimizers = True, ()

    class Logged(ContrastiveMixin, torch.nn.Module):
        def log_dict(self, values):
            self.logged = values

    module = Logged(with_metrics=True)
    module._trainer = Trainer()
    module.contrastive_loss(torch.eye(4), torch.eye(4))
    names = ("accuracy", "mean_rank", "alignment", "uniformity", "effective_temperature")
    assert set(module.logged) == {f"normdyn/contrast/{name}" for name in names}
    assert float(module.logged["normdyn/contrast/accuracy"]) == 1
    Trainer.training = False
    module.logged = {}
    module.contrastive_loss(torch.eye(4), torch.eye(4))
    assert not module.logged
