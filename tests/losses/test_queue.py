"""The memory of past documents."""

import pytest
import torch

from lightning_normdyn.losses import InfoNCE
from lightning_normdyn.losses.queue import DocumentQueue


def batches(count, size=4, d=3):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, d, generator=generator), torch.randn(size, d, generator=generator)) for _ in range(count)
    ]


@pytest.mark.parametrize("size", [1, 3, 4, 5, 7, 11, 12, 100])
def test_the_last_documents_are_kept(size):
    queue, everything = DocumentQueue(size), torch.arange(1.0, 13.0)
    for part in everything.split(4):
        queue.push(part[:, None], part.long()[:, None].expand(-1, 3))
    assert sorted(queue.documents.flatten().tolist()) == everything[-size:].tolist()
    assert torch.equal(queue.documents.flatten().long(), queue.keys[0])


def test_past_documents_are_negatives_as_if_they_were_extra_documents():
    loss, plain = InfoNCE(normalization="qnorm", queue_size=8), InfoNCE(normalization="qnorm")
    past = torch.empty(0, 3)
    for queries, documents in batches(5):
        expected = plain(queries, torch.cat((documents, past[-8:])))
        torch.testing.assert_close(loss(queries, documents), expected)
        past = torch.cat((past, documents))


def test_past_documents_that_ids_or_labels_tell_to_be_positives_are_left_out():
    (queries, documents), (more, others) = batches(2)
    ids, labels = torch.tensor([1, 2, 3, 4]), torch.tensor([0, 0, 1, 2])
    loss, plain = InfoNCE(queue_size=4), InfoNCE()
    loss(queries, documents, document_ids=ids, labels=labels)
    everything = {"document_ids": torch.tensor([2, 7, 8, 9]), "labels": torch.tensor([5, 1, 6, 7])}
    # Query 0 loses past document 1 by its id, query 1 past document 2 by its label.
    kept = []
    for query in range(4):
        past = [number for number in range(4) if (query, number) not in {(0, 1), (1, 2)}]
        own = torch.cat((torch.tensor([query]), torch.tensor([other for other in range(4) if other != query])))
        candidates = torch.cat((others[own], documents[past]))
        kept.append(plain(more[query : query + 1], candidates))
    torch.testing.assert_close(loss(more, others, **everything), torch.stack(kept).mean())


def test_nothing_is_remembered_in_evaluation():
    loss = InfoNCE(queue_size=8).eval()
    loss(*batches(1)[0])
    assert len(loss.queue.documents) == 0


def test_a_checkpoint_brings_the_memory_back(tmp_path):
    loss, fresh = InfoNCE(queue_size=6), InfoNCE(queue_size=6)
    for pair in batches(3):
        loss(*pair, query_ids=torch.arange(4))
    torch.save(loss.state_dict(), tmp_path / "loss.pt")
    fresh.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    for pair in batches(5)[3:]:
        assert torch.equal(loss(*pair, query_ids=torch.arange(4)), fresh(*pair, query_ids=torch.arange(4)))


def test_a_smaller_memory_takes_the_newest():
    loss, fresh = InfoNCE(queue_size=12), InfoNCE(queue_size=3)
    pairs = batches(4)
    for pair in pairs[:3]:
        loss(*pair)
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(fresh.queue.documents, pairs[2][1][-3:])
    fresh(*pairs[3])
    assert torch.equal(fresh.queue.documents, pairs[3][1][-3:])


def test_learnt_exponents_reach_past_documents_through_many_steps():
    loss = InfoNCE(normalization="learnable", queue_size=6)
    for queries, documents in batches(4):
        loss(queries, documents.requires_grad_()).backward()
    assert loss.similarity.raw_gammas.grad.abs().sum() > 0


def test_what_is_not_finite_is_not_remembered():
    loss = InfoNCE(queue_size=8)
    (queries, documents), clean = batches(2)
    with pytest.raises(ValueError, match="documents: 1 of 4 embeddings are NaN"):
        loss(queries, documents.index_fill(0, torch.tensor([2]), torch.nan))
    assert len(loss.queue.documents) == 0
    assert loss(*clean).isfinite()


def test_averaged_weights_leave_the_memory_alone():
    loss = InfoNCE(queue_size=8, learnable_temperature=True)
    averaged = torch.optim.swa_utils.AveragedModel(loss, use_buffers=True)
    loss(*batches(1)[0])
    averaged.update_parameters(loss)
    assert len(averaged.module.queue.documents) == 0
