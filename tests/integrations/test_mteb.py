"""Exponents in tasks of MTEB, offline: what it measures, what it calls the results, and the exponent for a task."""

from __future__ import annotations

import json
import runpy

import numpy as np
import pytest
import torch

mteb = pytest.importorskip("mteb", exc_type=ImportError)
datasets = pytest.importorskip("datasets")

from code_blocks import block_under  # noqa: E402
from mteb.abstasks import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.sts import AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.cache import ResultCache  # noqa: E402
from mteb.models.cache_wrappers import CachedEmbeddingWrapper  # noqa: E402
from planted_retrieval import QUERIES, planted_world, ranked_ndcg  # noqa: E402

from lightning_normdyn.integrations.mteb import NormAwareEncoder, calibrate_task  # noqa: E402
from lightning_normdyn.retrieval import NormAwareScore  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of the libraries
    pytest.mark.filterwarnings("error:norms of the"),
]
ABOUT = {
    "description": "words with planted vectors",
    "reference": None,
    "dataset": {"path": "none", "revision": "none"},
    "category": "t2t",
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "date": ("2026-01-01", "2026-01-01"),
    "dialect": [],
    "domains": [],
    "task_subtypes": [],
    "license": "cc-by-4.0",
    "annotations_creators": "derived",
    "modalities": ["text"],
    "sample_creation": "created",
    "bibtex_citation": "",
}


class PlantedRetrieval(AbsTaskRetrieval):
    metadata = TaskMetadata(name="PlantedRetrieval", type="Retrieval", main_score="ndcg_at_10", **ABOUT)


class PlantedSimilarity(AbsTaskSTS):
    metadata = TaskMetadata(name="PlantedSimilarity", type="STS", main_score="spearman", **ABOUT)
    min_score, max_score = 0, 1


def retrieval_task(world, top_ranked=None):
    task = PlantedRetrieval()
    task.dataset = {
        "default": {
            "test": {
                "corpus": datasets.Dataset.from_list(
                    [{"id": name, "text": text, "title": ""} for name, text in world.document_texts.items()]
                ),
                "queries": datasets.Dataset.from_list(
                    [{"id": name, "text": text} for name, text in world.query_texts.items()]
                ),
                "relevant_docs": {query: dict(grades) for query, grades in world.judged.items()},
                "top_ranked": top_ranked,
            }
        }
    }
    task.data_loaded = True
    return task


def main_score(model, task, **options):
    result = mteb.evaluate(
        model, task, cache=None, co2_tracker=False, show_progress_bar=False, encode_kwargs={"batch_size": 64}, **options
    )
    return result[0].scores["test"][0]["main_score"]


@pytest.fixture(scope="module")
def world():
    return planted_world()


@pytest.mark.parametrize("normalize", [False, True])
def test_exponents_give_what_a_loop_gives_and_none_the_cosine(world, normalize):
    model, task = world.model(normalize), retrieval_task(world)
    cosine = main_score(model, task)
    scores = {
        alpha: main_score(NormAwareEncoder(model, NormAwareScore(alpha=alpha)), task) for alpha in (0.0, 1.0, -0.5)
    }
    assert scores[0.0] == pytest.approx(cosine, abs=1e-6)
    for alpha, score in scores.items():  # MTEB rounds to five digits
        assert score == pytest.approx(ranked_ndcg(world, alpha), abs=1e-5)
    assert scores[1.0] > cosine + 0.05 > scores[-0.5]


def test_queries_may_have_exponents_which_change_no_ranking(world):
    task, model = retrieval_task(world), world.model()
    score = NormAwareScore(alpha=0.5, alpha_query=-1.5)
    assert main_score(NormAwareEncoder(model, score), task) == pytest.approx(
        main_score(NormAwareEncoder(model, NormAwareScore(alpha=0.5)), task), abs=1e-6
    )


def test_scores_without_an_exponent_are_the_cosines(world):
    encoder = NormAwareEncoder(world.model())
    queries, documents = (
        encoder.encode(
            torch.utils.data.DataLoader(datasets.Dataset.from_dict({"text": list(texts)}), batch_size=16),
            task_metadata=PlantedRetrieval.metadata,
            hf_split="test",
            hf_subset="default",
            prompt_type=side,
        )
        for side, texts in (
            (mteb.types.PromptType.query, world.query_texts),
            (mteb.types.PromptType.document, world.document_texts),
        )
    )
    cosines = torch.nn.functional.cosine_similarity(
        world.queries.double().unsqueeze(1), world.documents.double().unsqueeze(0), dim=2
    )
    torch.testing.assert_close(encoder.similarity(queries, documents).double(), cosines, atol=1e-6, rtol=0)


def test_calibration_of_a_task_finds_the_exponent_and_its_baseline_is_what_mteb_measures(world):
    task = retrieval_task(world)
    calibration = calibrate_task(world.model(normalize=True), task)["default"]
    assert calibration.queries == QUERIES
    assert calibration.significant
    assert calibration.advice > 0
    assert calibration.gain.low > 0
    model = world.model()
    assert calibration.baseline == pytest.approx(main_score(model, task), abs=1e-5)
    gain = main_score(NormAwareEncoder(model, NormAwareScore(alpha=calibration.advice)), task) - calibration.baseline
    assert gain >= calibration.gain.value - 1e-5  # chosen on these queries, so at least what it gains on others


def test_no_gain_is_advised_where_norms_are_noise():
    world = planted_world(long_answers=False, seed=3)
    calibration = calibrate_task(world.model(), retrieval_task(world))["default"]
    assert not calibration.significant
    assert calibration.advice == 0


def test_a_query_does_not_find_itself_where_the_task_leaves_it_out():
    world = planted_world()
    task = retrieval_task(world)
    task.dataset["default"]["test"]["queries"] = datasets.Dataset.from_list(
        [{"id": f"d{row + 2 * QUERIES}", "text": f"q{row}"} for row in range(QUERIES)]
    )
    judged = {f"d{row + 2 * QUERIES}": dict(world.judged[f"q{row}"]) for row in range(QUERIES)}
    task.dataset["default"]["test"]["relevant_docs"] = judged
    baseline_with_itself = calibrate_task(world.model(), task)["default"].baseline
    task.ignore_identical_ids = True
    baseline = calibrate_task(world.model(), task)["default"].baseline
    assert baseline == pytest.approx(main_score(world.model(), task), abs=1e-5)
    assert baseline > baseline_with_itself


def test_results_of_exponents_and_of_the_model_itself_never_mix(world, tmp_path):
    task, model, cache = retrieval_task(world), world.model(), ResultCache(tmp_path)
    models = [
        model,
        *(
            NormAwareEncoder(model, score)
            for score in (
                NormAwareScore(),
                NormAwareScore(alpha=0.5),
                NormAwareScore(alpha=-0.5),
                NormAwareScore("qnorm"),
                NormAwareScore(alpha_query=0.5),
            )
        ),
    ]
    runs = [mteb.evaluate(encoder, task, cache=cache, co2_tracker=False, show_progress_bar=False) for encoder in models]
    files = list(tmp_path.rglob("PlantedRetrieval.json"))
    assert len(files) == len(models)
    assert sum("norm_exponent_documents_-0.5" in str(file) for file in files) == 1
    later_runs = [
        mteb.evaluate(encoder, task, cache=cache, co2_tracker=False, show_progress_bar=False) for encoder in models
    ]
    scores = [[run[0].scores["test"][0]["main_score"] for run in results] for results in (runs, later_runs)]
    assert scores[0] == scores[1]
    assert len(set(scores[0])) >= 4
    saved = {json.loads(file.read_text())["scores"]["test"][0]["main_score"] for file in files}
    assert saved == set(scores[0])


def test_texts_are_encoded_once_for_many_exponents_by_a_cache_inside(world, tmp_path):
    model = mteb.models.SentenceTransformerEncoderWrapper(world.model(normalize=True))
    cached = CachedEmbeddingWrapper(model, tmp_path)
    for alpha in (0.0, 1.0, -0.5):
        score = main_score(NormAwareEncoder(cached, NormAwareScore(alpha=alpha)), retrieval_task(world))
        assert score == pytest.approx(ranked_ndcg(world, alpha), abs=1e-5)


def test_an_index_of_faiss_ranks_by_the_exponent(world):
    pytest.importorskip("faiss")
    from mteb.models import SearchEncoderWrapper
    from mteb.models.search_encoder_index import FaissSearchIndex

    model = NormAwareEncoder(world.model(normalize=True), NormAwareScore(alpha=1.0, alpha_query=0.5))
    search = SearchEncoderWrapper(model, index_backend=FaissSearchIndex(model))
    assert main_score(search, retrieval_task(world)) == pytest.approx(ranked_ndcg(world, 1.0), abs=1e-5)


def test_pairs_have_the_exponent_on_both_sides(world):
    draw = np.random.default_rng(0)
    left, right = draw.integers(0, len(world.documents), (2, 50))
    x, y = world.documents[left].double(), world.documents[right].double()
    task = PlantedSimilarity()
    expected = torch.nn.functional.cosine_similarity(x, y) * (x.norm(dim=1) * y.norm(dim=1)) ** 2
    columns = {"sentence1": [f"d{row}" for row in left], "sentence2": [f"d{row}" for row in right]}
    task.dataset = datasets.DatasetDict(test=datasets.Dataset.from_dict({**columns, "score": expected.tolist()}))
    task.data_loaded = True
    assert main_score(NormAwareEncoder(world.model(), NormAwareScore(alpha=2.0)), task) == pytest.approx(1, abs=1e-6)
    assert main_score(NormAwareEncoder(world.model()), task) < 0.999


def test_tasks_and_splits_that_cannot_be_calibrated_are_named(world):
    with pytest.raises(ValueError, match="task: expected a retrieval task of MTEB, got PlantedSimilarity"):
        calibrate_task(world.model(), PlantedSimilarity())
    with pytest.raises(ValueError, match="split: expected one of test, got 'dev'"):
        calibrate_task(world.model(), retrieval_task(world), split="dev")
    candidates = {query: [f"d{row}" for row in range(100)] for query in world.query_texts}
    with pytest.raises(ValueError, match="whole corpus, got PlantedRetrieval, which reranks"):
        calibrate_task(world.model(), retrieval_task(world, candidates))
    with pytest.raises(ValueError, match="model: expected a SentenceTransformer or an encoder of MTEB"):
        NormAwareEncoder(torch.nn.Linear(2, 2))


def test_the_page_runs_as_it_stands(tmp_path, capsys):
    file = tmp_path / "page.py"
    file.write_text(block_under("docs/howto/mteb.md", "Exponents of norms in MTEB", "text"), encoding="utf-8")
    names = runpy.run_path(str(file))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Norms help: take exponent")
    cosine, advised = (float(line.split()[-1]) for line in lines[1:])
    assert cosine == pytest.approx(names["calibration"].baseline, abs=1e-5)
    assert advised > cosine + names["calibration"].gain.low
