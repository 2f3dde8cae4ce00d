"""The corpus: what is read, in which order, and what is said when it will not do."""

import gzip
import json
import re
from pathlib import Path

import pytest

from lightning_normdyn.datasets.standard_library.docstrings import Docstrings, read_docstrings
from lightning_normdyn.tasks.tokens import corpus as corpus_module
from lightning_normdyn.tasks.tokens.corpus import library_corpus, load_corpus, prose_words, text_corpus
from lightning_normdyn.tasks.tokens.vocabulary import Vocabulary, count_vocabulary

FIFTY_WORDS = " ".join(a + b for a in "abcdefghij" for b in "klmno")


@pytest.fixture
def write(tmp_path):
    def to_file(name, content):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return to_file


def test_standard_library_is_real_english_and_reads_alike_twice():
    corpus = load_corpus()
    assert len(corpus.documents) > 2000
    assert corpus.words > 100_000
    assert count_vocabulary(corpus.documents, size=1).words == ["the"]
    folder = Path(json.__file__).parent
    assert library_corpus(folder) == library_corpus(folder)


def test_docstrings_of_nested_scopes_are_found_and_nothing_is_imported(write, tmp_path):
    write(
        "b.py",
        'raise SystemExit\ntry:\n    class A:\n        "of A"\n        def f(self):\n            "of f"\n'
        'except Exception:\n    async def g():\n        "of g"\nx = "not one"\n',
    )
    write("a.py", '"of a"')
    assert read_docstrings(tmp_path) == Docstrings(["of a", "of A", "of f", "of g"], 0)


def test_unreadable_sources_are_counted_and_skipped_folders_are_not(write, tmp_path):
    write("good.py", '"good"')
    write("latin.py", b'"caf\xe9"')
    write("broken.py", "def (")
    write("null.py", b"\0")
    (tmp_path / "test").mkdir()
    write("test/inside.py", '"a test"')
    assert read_docstrings(tmp_path) == Docstrings(["good"], 3)


def test_python_without_sources_suggests_own_text(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "_help_topics", list)
    with pytest.raises(FileNotFoundError, match="--text FILE"):
        library_corpus(tmp_path)


def test_paragraphs_are_documents_plain_gzipped_and_with_a_byte_order_mark(write):
    text = "One two.\nThree\n \n\nFour: 5 six_seven\n\n42\n"
    expected = [["one", "two", "three"], ["four", "six", "seven"]]
    assert text_corpus([write("a.txt", text)]).documents == expected
    assert text_corpus([write("a.txt.gz", gzip.compress(text.encode()))]).documents == expected
    assert text_corpus([write("b.txt", b"\xef\xbb\xbf" + text.encode())]).documents == expected


def test_words_of_other_alphabets_are_words():
    assert prose_words("Ça, l'été; Straße ΑΒΓ") == ["ça", "l'été", "straße", "αβγ"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; expected a UTF-8 text file"),
        ("  \n", "is empty"),
        (b"fine\nfi\xffne", "is not UTF-8 at line 2 (byte 7 is 0xff)"),
        ("too few words " * 100, "has 3 distinct words among 300; a corpus needs at least 50"),
        ("1 2 3", "has 0 distinct words among 0"),
    ],
)
def test_bad_content_is_said_in_one_sentence(write, content, message):
    with pytest.raises(ValueError, match="^text: .*" + re.escape(message)):
        load_corpus([write("given.txt", content)])


def test_bad_paths_are_said_in_one_sentence(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^text: there is no file"):
        text_corpus([tmp_path / "absent.txt"])
    with pytest.raises(ValueError, match=r"^text: .* is a folder"):
        text_corpus([tmp_path])
    with pytest.raises(ValueError, match=r"^text: .* is not a whole gzip file"):
        text_corpus([write("cut.gz", gzip.compress(FIFTY_WORDS.encode())[:-9])])
    with pytest.raises(ValueError, match=r"^text: expected a list"):
        text_corpus([])


def test_fifty_distinct_words_are_enough(write):
    assert load_corpus([write("enough.txt", FIFTY_WORDS)]).words == 50


def test_vocabulary_is_by_count_then_alphabet_whatever_the_order_of_documents():
    documents = [["b", "a", "d"], ["c", "d"], ["a", "b"], ["d"]]
    expected = Vocabulary(["d", "a", "b", "c"], [3, 2, 2, 1])
    assert count_vocabulary(documents, size=9) == expected
    assert count_vocabulary(documents[::-1], size=9) == expected
    assert count_vocabulary(documents, size=2) == Vocabulary(["d", "a"], [3, 2])
    with pytest.raises(ValueError, match=r"^vocabulary_size: "):
        count_vocabulary(documents, size=0)
