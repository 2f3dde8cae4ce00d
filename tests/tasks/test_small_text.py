"""The small text encoder against a loop over the parts of words in plain Python."""

import math
from collections import Counter
from zlib import crc32

import pytest
import torch
from hypothesis import given, strategies as st

from lightning_normdyn.tasks.encoders import SmallTextEncoder

BUCKETS, DIM = 97, 6


def parts_by_hand(word, letters):
    """The word, its first five letters and a dash if it is longer, and every n-gram of <word>."""
    parts = [word] + ([word[:5] + "-"] if len(word) > 5 else [])
    if letters and len(word) + 2 > letters:
        padded = "<" + word + ">"
        parts += ["#" + padded[i : i + letters] for i in range(len(padded)) if i + letters <= len(padded)]
    return parts


def by_hand(encoder, text):
    table, weight = encoder.table.weight.tolist(), encoder.weight.weight.flatten().tolist()
    parts = [part for word in text.lower().split() for part in parts_by_hand(word, encoder.ngram_letters)]
    numbers = Counter(crc32(part.encode()) % BUCKETS + 1 for part in parts)
    frequencies = {n: 1 + math.log(c) if encoder.sublinear_tf else c for n, c in numbers.items()}
    root = math.sqrt(max(1, sum(frequencies.values())))
    return [sum(f * math.exp(20 * weight[n]) * table[n][i] for n, f in frequencies.items()) / root for i in range(DIM)]


def an_encoder(**options):
    torch.manual_seed(0)
    encoder = SmallTextEncoder(dim=DIM, buckets=BUCKETS, hidden=4, dropout=0.0, **options).double()
    torch.nn.init.normal_(encoder.weight.weight, std=0.05)
    return encoder.eval()


WORDS = st.text("abcdefg", min_size=1, max_size=9)


@pytest.mark.parametrize("sublinear_tf", [False, True])
@pytest.mark.parametrize("ngram_letters", [0, 3, 5])
@given(texts=st.lists(st.lists(WORDS, max_size=6).map(" ".join), min_size=1, max_size=4))
def test_embeddings_are_weighted_sums_of_the_parts_of_words(sublinear_tf, ngram_letters, texts):
    encoder = an_encoder(sublinear_tf=sublinear_tf, ngram_letters=ngram_letters)
    embeddings = encoder(**encoder.tokenize(texts))
    for text, embedding in zip(texts, embeddings, strict=True):
        assert embedding.tolist() == pytest.approx(by_hand(encoder, text), abs=1e-6)


def test_a_word_that_training_never_saw_is_near_those_that_it_is_spelt_like():
    torch.manual_seed(0)
    plain, with_ngrams = (SmallTextEncoder(dim=64, ngram_letters=letters).eval() for letters in (0, 3))
    for encoder, low, high in ((plain, -0.4, 0.4), (with_ngrams, 0.4, 0.8)):
        first, second = encoder.encode(["normalise", "renormalize"])
        assert low < torch.cosine_similarity(first, second, dim=0) < high


def test_repeated_words_are_named_once_with_their_counts():
    encoder = an_encoder(sublinear_tf=True)
    tokens = encoder.tokenize(["to be or not to be", "be", ""])
    assert tokens["counts"].tolist() == [[2, 2, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert tokens["words"].count_nonzero(dim=1).tolist() == [4, 1, 0]
    assert encoder(**tokens)[2].tolist() == [0.0] * DIM


@pytest.mark.parametrize("sublinear_tf", [False, True])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_rounds_and_trains(sublinear_tf, dtype, rounding):
    encoder = an_encoder(sublinear_tf=sublinear_tf, ngram_letters=3).to(dtype)
    text = "to be or not to be"
    (embedding,) = encoder.encode([text])
    assert embedding.dtype == dtype
    assert embedding.tolist() == pytest.approx(by_hand(encoder, text), abs=4 * rounding)  # of values up to 2
    embedding.float().square().sum().backward()
    assert all(p.grad.dtype == dtype for p in (encoder.table.weight, encoder.weight.weight))
    assert encoder.weight.weight.grad.isfinite().all()


def test_what_is_cut_is_counted_with_ngrams():
    encoder = an_encoder(ngram_letters=3, max_words=8)
    encoder.tokenize(["abc", "abcdefgh"])  # 4 parts and 10
    assert (encoder.texts, encoder.truncated_texts) == (2, 1)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"ngram_letters": -1}, "ngram_letters: expected"), ({"sublinear_tf": "log"}, "sublinear_tf: expected")],
)
def test_wrong_options_are_refused(option, message):
    with pytest.raises((TypeError, ValueError), match=message):
        SmallTextEncoder(**option)
