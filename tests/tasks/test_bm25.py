import math
import unicodedata
from collections import Counter

import pytest
import torch
from hypothesis import given, strategies as st

from lightning_normdyn.tasks.encoders.text_words import identifier_words
from lightning_normdyn.tasks.retrieval.bm25 import BM25

TEXTS = st.lists(st.lists(st.sampled_from(["file", "open", "door", "a", "x"]), max_size=6).map(" ".join), min_size=1)


def _score(query, document, documents, k1, b):
    """Lucene's BM25, word by word in float64."""
    split = [text.split() for text in documents]
    mean = sum(map(len, split)) / len(split) or 1
    counts, total = Counter(document.split()), 0.0
    for word in query.split():
        n = sum(word in words for words in split)
        rarity = math.log(1 + (len(split) - n + 0.5) / (n + 0.5))
        f = counts[word]
        if f:
            total += rarity * f / (f + k1 * (1 - b + b * len(document.split()) / mean))
    return total


@given(TEXTS, TEXTS, st.floats(0, 3), st.floats(0, 1))
def test_scores_are_those_of_the_formula(documents, queries, k1, b):
    index = BM25(documents, k1=k1, b=b)
    for query in queries[:3]:
        expected = [_score(query, document, documents, k1, b) for document in documents]
        torch.testing.assert_close(index.scores(query), torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_excluded_documents_and_those_without_a_shared_word_are_not_found():
    index = BM25(["open file", "open door", "other"])
    excluded = (torch.tensor([1]), torch.tensor([0]))
    assert index.rank(["open", "open", "unheard"], 3, excluded_pairs=excluded).tolist() == [
        [0, 1, -1],
        [1, -1, -1],
        [-1] * 3,
    ]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="documents: expected at least one"):
        BM25([])
    with pytest.raises(ValueError, match="k1, b: expected"):
        BM25(["a"], b=2.0)


@pytest.mark.parametrize("words", [("दिन", "दान"), ("মা", "মি"), ("שָׁלוֹם", "שלום"), ("ẹ̀kọ́", "ẹ́kọ̀")])
def test_marks_belong_to_their_letters(words):
    assert [identifier_words(word) for word in words] == [[unicodedata.normalize("NFC", word)] for word in words]
    assert len({*words}) == 2


def test_words_of_any_script_are_found():
    texts = ["Äpfel über café", "привет мир", "日本の文書", "नमस्ते दुनिया"]
    found = BM25(texts).rank(["CAFÉ", "мир", "文書", "दुनिया", "cafe\u0301"], 1)
    assert found.flatten().tolist() == [0, 1, 2, 3, 0]
