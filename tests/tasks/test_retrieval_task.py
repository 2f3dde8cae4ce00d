import math
import random
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from lightning_normdyn.callbacks import HardNegativeMining
from lightning_normdyn.core import NORMALIZATIONS
from lightning_normdyn.datasets import JudgedTexts, Judgements, MinedRow, Texts
from lightning_normdyn.datasets.formats import MsMarcoTriples, write_hard_negatives
from lightning_normdyn.tasks import Retrieval, RetrievalData
from lightning_normdyn.tasks.contrast.contrast_data import collate_pairs
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.encoders import SmallTextEncoder
from lightning_normdyn.tasks.retrieval.bm25 import BM25
from lightning_normdyn.tasks.retrieval.training_floor import TrainingMemory
from lightning_normdyn.tasks.sources import JudgedTextsSource, StandardLibraryDocstrings

DOCUMENTS = ["opens a file", "shuts the door", "reads a file at once", "paints it red", "closes files"]
QUERIES = ["open file", "shut door", "read file", "paint red"]


class FewTexts(JudgedTextsSource):
    def __init__(self, excluded=None):
        self.excluded = {} if excluded is None else excluded

    def read(self):
        train = Judgements.of([(0, 0, 1.0), (1, 1, 1.0), (1, 4, 0.0), (2, 2, 1.0), (2, 0, 1.0), (3, 3, 1.0)])
        test = Judgements.of([(3, 3, 2.0), (1, 1, 1.0), (1, 4, 1.0)])
        texts = Texts([f"d{n}" for n in range(5)], DOCUMENTS), Texts([f"q{n}" for n in range(4)], QUERIES)
        return JudgedTexts(*texts, {"train": train, "test": test}, excluded_pairs=self.excluded)


def _ndcg(scores, grades, excluded, k=10):
    """One query's NDCG@k, document by document."""
    order = sorted((place for place in range(len(scores)) if place not in excluded), key=lambda place: -scores[place])
    gain = sum(grades.get(place, 0) / math.log2(rank + 2) for rank, place in enumerate(order[:k]))
    return gain / sum(grade / math.log2(rank + 2) for rank, grade in enumerate(sorted(grades.values())[::-1][:k]))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_measures_rank_by_the_score_of_the_similarity(normalization):
    generator = torch.Generator().manual_seed(1)
    queries, documents = torch.randn(5, 3, generator=generator), torch.randn(20, 3, generator=generator)
    grades = [{int(d): 1.0 + int(d) % 2 for d in torch.randperm(20, generator=generator)[:4]} for _ in range(5)]
    excluded = [[(3 * n) % 20, (7 * n + 1) % 20] for n in range(5)]
    for one, left_out in zip(grades, excluded, strict=True):
        for place in left_out:
            one.pop(place, None)
    judged = Judgements.of((n, d, grade) for n, one in enumerate(grades) for d, grade in one.items())
    left = Judgements.of((n, d, 0.0) for n, one in enumerate(excluded) for d in one)
    exponents = NORMALIZATIONS[normalization]
    measured = Retrieval(encoder=SmallTextEncoder(dim=3, buckets=9)).measures(
        Encoded(queries, documents, judged, left), exponents
    )
    for n, query in enumerate(queries.tolist()):
        scores = [
            sum(a * b for a, b in zip(query, document, strict=True)) / math.hypot(*document) ** exponents[1]
            for document in documents.tolist()
        ]
        assert float(measured["ndcg@10"][n]) == pytest.approx(_ndcg(scores, grades[n], excluded[n]), abs=1e-5)


def test_a_split_has_its_own_queries_in_order_and_what_no_ranking_may_show():
    excluded = Judgements.of([(3, 0, 0.0), (0, 1, 0.0)])
    data = RetrievalData(FewTexts({"test": excluded}))
    sides = data.evaluation("test")
    assert list(sides.queries) == ["shut door", "paint red"]
    assert [column.tolist() for column in sides.judgements] == [[1, 0, 0], [3, 1, 4], [2.0, 1.0, 1.0]]
    assert [column.tolist() for column in sides.excluded_pairs] == [[1], [0], [0.0]]
    assert 0 not in data.rank_by_words("test", 5)[1].tolist()


@pytest.mark.parametrize(("share", "held"), [(0.5, 2), (0.25, 1)])
def test_validation_queries_are_kept_from_training(share, held):
    data = RetrievalData(FewTexts(), validation_share=share)
    asked = set(data.evaluation("validation").queries)
    trained = {pair.query for pair in data.training_pairs()}
    assert len(asked) == held
    assert asked | trained == set(QUERIES)
    assert not asked & trained


def test_splits_of_the_library_share_no_query():
    texts = StandardLibraryDocstrings().read()
    asked = [set(split.queries.tolist()) for split in texts.judgements.values()]
    assert sum(map(len, asked)) == len(set.union(*asked)) == len(texts.queries)


def test_hard_negatives_share_words_and_answer_nothing():
    data = RetrievalData(FewTexts(), validation_share=0.25, hard_negatives=2)
    for pair in data.training_pairs():
        assert len(set(pair.hard_negatives)) == 2
        assert pair.document not in pair.hard_negatives
    assert len(collate_pairs(list(data.training_pairs()))["hard_negatives"]) == 2 * len(data.training_pairs())
    with pytest.raises(ValueError, match=r"^hard_negatives: expected at most 3"):
        RetrievalData(FewTexts(), validation_share=0.25, hard_negatives=4).training_pairs()


def test_hard_negatives_come_from_a_file_by_id_and_what_is_missing_is_drawn_and_said(tmp_path):
    file = tmp_path / "mined.jsonl"
    rows = [("q0", "d0", ("d4", "d3")), ("q1", "d1", ("d1", "d2", "d0")), ("q2", "d2", ("d3",))]
    write_hard_negatives((MinedRow(*row, ()) for row in rows), file)
    data = RetrievalData(FewTexts(), validation_share=0.25, hard_negatives=2, hard_negatives_from=str(file))
    with pytest.warns(
        UserWarning, match=r"1 of 3 queries have fewer than 2 hard negatives there; what is missing is drawn"
    ):
        pairs = list(data.training_pairs())
    negatives = {pair.query: pair.hard_negative_ids for pair in pairs}
    assert negatives["open file"] == (4, 3)
    assert negatives["shut door"] == (2, 0)  # the first in the file answers it
    assert negatives["read file"][0] == 3
    assert negatives["read file"][1] in (1, 4)
    for pair in pairs:
        assert pair.hard_negatives == tuple(DOCUMENTS[place] for place in pair.hard_negative_ids)
    batch = collate_pairs(pairs)
    assert batch["hard_negative_ids"].tolist() == [list(pair.hard_negative_ids) for pair in pairs]


def test_pairs_that_are_excluded_or_copies_of_an_answer_are_no_hard_negatives():
    class Copies(FewTexts):
        def read(self):
            texts = super().read()
            documents = Texts([f"d{n}" for n in range(7)], [*DOCUMENTS, DOCUMENTS[0], "open file now"])
            excluded = {"train": Judgements.of([(0, 6, 0.0)])}
            return JudgedTexts(documents, texts.queries, texts.judgements, excluded_pairs=excluded)

    data = RetrievalData(Copies(), validation_share=0.25, hard_negatives=2)
    negatives = {pair.query: set(pair.hard_negative_ids) for pair in data.training_pairs()}
    assert not negatives["open file"] & {0, 5, 6}
    assert 6 in negatives["read file"]


def test_mining_needs_its_callback_and_a_number():
    data = RetrievalData(
        FewTexts(), validation_share=0.25, hard_negatives=2, hard_negatives_from="mining", batch_size=2
    )
    assert all(pair.hard_negatives == () for pair in data.training_pairs())
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, callbacks=[])
    with pytest.raises(ValueError, match=r"^hard_negatives_from: 'mining' expected the callback HardNegativeMining"):
        data.train_dataloader()
    data.trainer.callbacks = [HardNegativeMining()]
    data.train_dataloader()
    assert data.mining_source().query_ids == ["q0", "q1", "q2"]
    with pytest.raises(ValueError, match=r"^hard_negatives: expected 1 or more beside hard_negatives_from='mining'"):
        RetrievalData(FewTexts(), hard_negatives_from="mining")
    with pytest.raises(ValueError, match=r"^hard_negatives: expected 1 or more where they are mined, got 0"):
        RetrievalData(FewTexts()).mining_source()


def test_triples_are_streamed_as_pairs_with_one_hard_negative(tmp_path):
    file = tmp_path / "triples.tsv"
    file.write_text("q one\tright\twrong\nq two\tyes\tno\nq one\tother\twrong\n")
    data = RetrievalData(FewTexts(), triples=MsMarcoTriples(file), batch_size=3)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch["queries"] == ["q one", "q two", "q one"]
    assert batch["hard_negatives"] == ["wrong", "no", "wrong"]
    ids = batch["query_ids"].tolist()
    assert ids[0] == ids[2] != ids[1]


def test_evaluation_takes_long_texts_first_and_keeps_their_places():
    _queries, documents = RetrievalData(FewTexts(), evaluation_batch_size=2).test_dataloader()
    batches = list(documents)
    assert [len(text) for batch in batches for text in batch["inputs"]] == sorted(map(len, DOCUMENTS))[::-1]
    for batch in batches:
        assert [DOCUMENTS[place] for place in batch["places"].tolist()] == batch["inputs"]


def test_bad_options_are_refused():
    for options, said in [
        ({"validation_share": 0.0}, "validation_share"),
        ({"hard_negatives": -1}, "hard_negatives"),
    ]:
        with pytest.raises(ValueError, match=f"^{said}: expected"):
            RetrievalData(FewTexts(), **options)


@pytest.mark.parametrize(("ranks", "batches"), [(1, 1), (2, 1), (3, 1)])
def test_every_rank_has_a_batch_to_train_on(ranks, batches):
    """With two ranks neither has a whole batch of its own, which must not leave it with none."""
    data = RetrievalData(FewTexts(), validation_share=0.25)
    pairs = len(data.training_pairs())
    data.batch_size = pairs
    data.trainer = SimpleNamespace(global_rank=0, world_size=ranks)
    loader = data.train_dataloader()
    sampler = DistributedSampler(loader.dataset, num_replicas=ranks, rank=0)
    own = DataLoader(loader.dataset, data.batch_size, sampler=sampler, drop_last=loader.drop_last)
    assert len(own) == batches


def planted_memory(seed=0):
    """Queries whose words say nothing; training asked the same of the documents that they want."""
    draw = random.Random(seed)
    topics = [f"topic{number}" for number in range(12)]
    documents = [f"text {draw.random():.9f}" for _ in range(60 + len(topics))]  # the last are asked for
    queries = [f"{topic} {word} text" for topic in topics for word in ("what", "why", "when")]
    judged = [(3 * number + turn, 60 + number, 1.0) for number in range(12) for turn in range(3)]
    train, validation, test = (Judgements.of(judged[turn::3]) for turn in range(3))
    texts = Texts([f"d{n}" for n in range(72)], documents), Texts([f"q{n}" for n in range(36)], queries)
    return JudgedTexts(*texts, {"train": train, "validation": validation, "test": test})


def test_a_floor_that_knows_the_training_judgements_stands_beside_bm25():
    data = RetrievalData(SimpleNamespace(read=planted_memory))
    floors = data.floors("test")
    assert list(floors) == ["bm25", "bm25 + training documents", "bm25 + training queries"]
    assert floors["bm25"] < 0.2
    assert floors["bm25 + training queries"] == 1.0  # the likest training query names the topic, and so the document
    assert floors["bm25"] < floors["bm25 + training documents"] < 1
    assert data.evaluation("test").in_training.all()


def test_memory_of_training_is_scored_as_by_hand():
    """Every document and query in a loop: BM25 over its largest, and the likest training query that wants it."""
    documents = ["red fox", "red fox runs", "blue fish swims", "green frog"]
    queries = ["which fox is red", "fish in the sea", "red frog"]
    train = Judgements.of([(0, 1, 1.0), (1, 2, 1.0), (1, 3, 0.0), (0, 2, 1.0)])
    memory = TrainingMemory(documents, queries, train)
    split = EvaluationSplit(["red sea fox"], documents, Judgements.of([(0, 1, 1.0)]))
    words, likeness = BM25(documents).scores("red sea fox"), BM25(queries[:2]).scores("red sea fox")
    wanted = {1: [0], 2: [0, 1]}
    for name, weight, ranking in memory.ranks(split):
        by_hand = []
        for place in range(4):
            likest = max((float(likeness[query]) for query in wanted.get(place, [])), default=0.0)
            added = likest / float(likeness.max()) if name == "queries" else float(place in wanted)
            by_hand.append(float(words[place]) / float(words.max()) + weight * added)
        expected = sorted(range(4), key=lambda place: -by_hand[place])
        assert ranking[0].tolist() == [place if by_hand[place] > 0 else -1 for place in expected], (name, weight)


def test_a_query_counts_as_known_where_training_wants_a_document_of_its():
    data = RetrievalData(FewTexts(), validation_share=0.25)
    trained = {pair.document for pair in data.training_pairs()}
    for split in ("validation", "test"):
        sides = data.evaluation(split)
        relevant = sides.judgements.relevant()
        for place in range(len(sides.queries)):
            wanted = {DOCUMENTS[d] for q, d in zip(relevant.queries, relevant.documents, strict=True) if q == place}
            assert bool(sides.in_training[place]) == bool(wanted & trained)
    half = data.evaluation("test").select(torch.tensor([True, False]), torch.ones(5, dtype=torch.bool))
    assert half.in_training.tolist() == data.evaluation("test").in_training[:1].tolist()


def test_sets_out_of_domain_have_short_names_where_these_differ(tmp_path):
    for folder in ("a/quora", "b/quora", "b/fiqa"):
        (tmp_path / folder / "qrels").mkdir(parents=True)
    folders = [str(tmp_path / folder) for folder in ("a/quora", "b/quora", "b/fiqa")]
    assert list(RetrievalData(also=folders[1:]).out_of_domain()) == ["quora", "fiqa"]
    assert list(RetrievalData(also=folders).out_of_domain()) == folders
    assert RetrievalData().out_of_domain() == {}
    with pytest.raises(ValueError, match="also: expected a list of texts, got one text; put it into a list"):
        RetrievalData(also=folders[0])


def test_measures_are_logged_where_ranks_can_reduce_them(monkeypatch):
    """Embeddings of an evaluation are on the CPU, where NCCL reduces nothing."""
    logged = {}
    judged = Judgements(torch.arange(3), torch.arange(3), torch.ones(3))
    encoded = Encoded(torch.randn(3, 4), torch.randn(5, 4), judged)
    task = Retrieval()
    monkeypatch.setattr(Retrieval, "device", torch.device("meta"))
    monkeypatch.setattr(task, "_take_encoded", lambda _: encoded)
    monkeypatch.setattr(task, "_floors_of", lambda *_: {})
    monkeypatch.setattr(task, "log", lambda name, value, **options: logged.update({name: (value, options)}))
    monkeypatch.setattr(task, "log_dict", lambda *_, **options: logged.update({"floors": (None, options)}))
    task._evaluate("val")
    assert {"val/ndcg@10", "val/relevant_norm", "val/irrelevant_norm", "floors"} <= logged.keys()
    assert {value.device.type for value, _ in logged.values() if value is not None} == {"meta"}
    assert all(options["sync_dist"] for _, options in logged.values())
