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
