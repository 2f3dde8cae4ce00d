from collections import Counter

import pytest
import torch
from transformers import BertTokenizerFast, T5Config, T5ForConditionalGeneration

from lightning_normdyn.datasets import JudgedTexts, Judgements, Texts
from lightning_normdyn.datasets.standard_library import question_answers
from lightning_normdyn.datasets.standard_library.question_answers import questions_about
from lightning_normdyn.tasks import Rag, RagData, RetrievalData
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.encoders import SmallTextEncoder
from lightning_normdyn.tasks.readers import Seq2SeqReader, SignatureReader
from lightning_normdyn.tasks.retrieval.rag import exact_match, normalize_answer, token_f1
from lightning_normdyn.tasks.sources import JudgedTextsSource

DOCUMENTS = ["class A(base.B)\nHolds.", "def f(self, x=1)\nRuns.", "No signature.", "def g()\nStops."]
QUESTIONS = [
    "Which class does the class described as this inherit from: It holds.",
    "What is the first argument of the function described as: It runs.",
    "What is the name of the function described as: It halts.",
]
ANSWERS = {0: ("base.B", "B"), 1: ("x",), 2: ("g",)}


class FewQuestions(JudgedTextsSource):
    def __init__(self, answers=ANSWERS):
        self.answers = answers

    def read(self):
        judged = Judgements.of([(0, 0, 1.0), (1, 1, 1.0), (2, 3, 1.0)])
        splits = dict.fromkeys(("train", "validation", "test"), judged)
        return JudgedTexts(Texts(list("abcd"), DOCUMENTS), Texts(list("xyz"), QUESTIONS), splits, answers=self.answers)


def _task(**options):
    return Rag(encoder=SmallTextEncoder(dim=4, buckets=50), **options)


def test_answers_are_read_from_the_documents_that_score_best():
    sides = RagData(FewQuestions()).evaluation("test")
    documents = torch.eye(4)
    queries = torch.stack((documents[0], documents[3] + documents[1] / 2, documents[2]))
    measured = _task(passages=1).measures(Encoded.of(queries, documents, sides), (1.0, 1.0))
    assert measured["exact_match"].tolist() == [1.0, 0.0, 0.0]  # right, no argument in g(), no signature
    assert measured["recall@1"].tolist() == [1.0, 0.0, 0.0]
    measured = _task(passages=2).measures(Encoded.of(queries, documents, sides), (1.0, 1.0))
    assert measured["exact_match"].tolist() == [1.0, 1.0, 0.0]
    assert measured["recall@2"].tolist()[:2] == [1.0, 1.0]


def test_the_floor_is_the_same_reader_after_bm25():
    data = RagData(FewQuestions())
    assert _task().floors(data, "test") == {"bm25": pytest.approx(2 / 3)}  # "halts" is in no document
    assert data.rank_by_words("test", 3).shape == (3, 3)
    assert _task().floors(RagData(FewQuestions(), bm25=False), "test") == {}


def test_questions_without_answers_are_refused():
    with pytest.raises(ValueError, match=r"^source: expected answers to the questions of the test split"):
        RagData(FewQuestions({})).evaluation("test")
    sides = RetrievalData(FewQuestions({})).evaluation("test")
    with pytest.raises(ValueError, match=r"^encoded: expected questions with answers"):
        _task().measures(Encoded.of(torch.eye(3), torch.eye(3), sides), (1.0, 1.0))


@pytest.mark.parametrize(
    ("answer", "right", "exact", "f1"),
    [
        ("The Answer.", ["answer"], 1.0, 1.0),
        ("a big red dog", ["red dog", "cat"], 0.0, 0.8),
        ("red red", ["red dog"], 0.0, 0.5),
        ("", ["x"], 0.0, 0.0),
        ("the", [""], 1.0, 1.0),
    ],
)
def test_answers_match_as_in_squad(answer, right, exact, f1):
    assert exact_match(answer, right) == exact
    assert token_f1(answer, right) == pytest.approx(f1)


def test_normalisation_keeps_words_that_begin_like_articles():
    assert normalize_answer("An  answer, then: the THEatre") == "answer then theatre"


def test_every_question_of_the_library_is_answered_by_its_own_document():
    found = question_answers()
    reader, wrong = SignatureReader(), Counter()
    for judged in found.judgements.values():
        for query, document in zip(judged.queries.tolist(), judged.documents.tolist(), strict=True):
            question = found.queries.texts[query]
            (answer,) = reader.read([question], [[found.documents.texts[document]]])
            wrong[bool(exact_match(answer, found.answers[query]))] += 1
    assert wrong[False] == 0
    assert wrong[True] == len(found.queries) > 1000


def test_splits_of_questions_share_no_document():
    judged = question_answers().judgements
    documents = [set(split.documents.tolist()) for split in judged.values()]
    assert not (documents[0] & documents[1])
    assert not (documents[0] & documents[2])
    assert not (documents[1] & documents[2])


def test_text_that_only_begins_like_a_signature_asks_nothing():
    assert questions_about("class of its own", "It is.") == []
    assert [question.answers for question in questions_about("def f(cls, /, y, *z)", "It does.")] == [("f",), ("y",)]
    assert len(questions_about("class A(namedtuple('x', 'y'))", "It is.")) == 1
    assert SignatureReader().read(["What argument"], [["def f(cls_or_self, x)"]]) == ["cls_or_self"]


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A random T5, saved as transformers saves it."""
    folder = tmp_path_factory.mktemp("t5")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "question", "context", ":", "what", "x", "y"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(words),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        pad_token_id=0,
        decoder_start_token_id=0,
        eos_token_id=3,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


def test_a_transformers_reader_generates_greedily(t5):
    reader = Seq2SeqReader(t5, batch_size=2, max_new_tokens=3, max_length=8)
    asked = (["what x", "what", "y"], [["x"], [], ["y x y x y x y x"]])
    answers = reader.read(*asked, torch.device("cpu"))
    assert reader.truncated_prompts == 2  # nine tokens, seven, and many
    tokens = reader.tokenizer("question: what x context: x", return_tensors="pt", truncation=True, max_length=8)
    made = [0]
    for _ in range(3):  # the same without generate()
        logits = reader.model(input_ids=tokens["input_ids"], decoder_input_ids=torch.tensor([made])).logits
        made.append(int(logits[0, -1].argmax()))
        if made[-1] == 3:
            break
    assert answers[0] == reader.tokenizer.decode(made, skip_special_tokens=True).strip()
    assert len(answers) == 3


def test_the_reader_is_no_part_of_the_model(t5):
    task = _task(reader=Seq2SeqReader(t5))
    assert not any("reader" in name for name in task.state_dict())
    assert sum(p.numel() for p in task.parameters()) == sum(p.numel() for p in task.towers.parameters())


def test_bad_options_are_refused(t5):
    with pytest.raises(ValueError, match=r"^passages: expected 1 to 10"):
        _task(passages=0)
    with pytest.raises(ValueError, match=r"^prompt: expected"):
        Seq2SeqReader(t5, prompt="{question}")
    with pytest.raises(ValueError, match=r"^batch_size: expected"):
        Seq2SeqReader(t5, batch_size=0)
