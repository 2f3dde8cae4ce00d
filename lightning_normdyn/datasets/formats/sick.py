"""SICK: sentences involving compositional knowledge (Marelli et al., LREC 2014)."""

from __future__ import annotations

from pathlib import Path

from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.datasets.formats.sts import GradedPair, graded_pairs
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.folder import SPLITS, find_file
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.reading.rows import read_columns, read_number
from lightning_normdyn.datasets.records import GradedPairs

_SENTENCES = ("sentence_A", "sentence_B", "relatedness_score")
_SET_NAMES = {"TRAIN": "train", "TRIAL": "validation", "TEST": "test"}
_FILES = {
    "train": ("SICK_train.txt",),
    "validation": ("SICK_trial.txt",),
    "test": ("SICK_test_annotated.txt", "SICK_test.txt"),
}


def read_sick(path: File) -> dict[str, GradedPairs]:
    """Reads ``SICK.txt``, whose column ``SemEval_set`` names the split, or the three files of SemEval 2014.

    Args:
        path: the file, or the folder of the file or files; plain or ``.gz``.

    Returns:
        Split (``train``, ``validation`` for the trial set, ``test``) to its pairs; grades are relatedness, 1 to 5.

    Raises:
        MalformedFileError: if a file is missing or does not hold what it should.
    """
    check_path("folder or file", path=path)
    single = find_file(path, "SICK.txt") if Path(path).is_dir() else Path(path)
    rows = _by_set(single) if single is not None else _by_file(path)
    problems = Problems(path)
    pairs = {split: graded_pairs(rows[split], problems, path) for split in SPLITS if split in rows}
    problems.report()
    return pairs


def _by_set(file: Path) -> dict[str, list[GradedPair]]:
    rows: dict[str, list[GradedPair]] = {}
    for line, (first, second, score, name) in read_columns(file, *_SENTENCES, "SemEval_set", delimiter="\t"):
        if name.strip() not in _SET_NAMES:
            raise MalformedFileError(file, line, "SemEval_set to be TRAIN, TRIAL or TEST", repr(name))
        split = rows.setdefault(_SET_NAMES[name.strip()], [])
        split.append(GradedPair(first, second, read_number(file, line, "a score", score)))
    if not rows:
        raise MalformedFileError(file, None, "pairs of sentences", "none")
    return rows


def _by_file(folder: File) -> dict[str, list[GradedPair]]:
    rows = {}
    for split, names in _FILES.items():
        file = find_file(folder, *names)
        if file is not None:
            rows[split] = [
                GradedPair(first, second, read_number(file, line, "a score", score))
                for line, (first, second, score) in read_columns(file, *_SENTENCES, delimiter="\t")
            ]
    if not rows:
        raise MalformedFileError(folder, None, "SICK.txt or SICK_train.txt", "neither")
    return rows
