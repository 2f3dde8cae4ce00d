"""Retrieval sets of the Hugging Face hub by name: BeIR/scifact with BeIR/scifact-qrels, mteb/scifact and their like."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.datasets.formats.beir import Progress, read_beir, read_beir_files
from lightning_normdyn.datasets.formats.beir_files import BeirFiles, beir_files, judgement_files
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.folder import by_split
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.records import JudgedTexts

_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")
_CARD = "README.md"
_WANTED = tuple(
    f"{folder}{name}*{ending}"
    for folder in ("", "*/")
    for name in ("corpus", "queries", "qrels", "train", "dev", "validation", "test")
    for ending in (".jsonl", ".jsonl.gz", ".parquet", ".tsv", ".txt")
)


def read_judged_texts(folder: File, *, cache: File | None = None, progress: Progress | None = None) -> JudgedTexts:
    """Reads a retrieval set from a folder, or from the hub where there is no such folder and the name could be one.

    Args:
        folder: of the set, see :func:`read_beir`, or a name ``ORGANISATION/NAME``, with ``:CONFIG`` where the set has
            several (``mteb/MIRACLRetrieval:de``). Judgements of ``BeIR/NAME`` come from ``BeIR/NAME-qrels``.
        cache: see :func:`read_beir`.
        progress: likewise.

    Raises:
        MalformedFileError: if a file is missing or does not hold what it should.
        ValueError: if the hub has no such set or cannot be reached.
        ModuleNotFoundError: if huggingface_hub is not installed and a name is asked for.
    """
    check_path("folder", folder=folder)
    match = _NAME.fullmatch(str(folder))
    if match is None or Path(folder).exists():
        return read_beir(folder, cache=cache, progress=progress)
    problems = Problems(folder)
    texts = read_beir_files(_hub_files(*match.groups()), problems, cache=cache, progress=progress)
    problems.report()
    return texts


def _hub_files(name: str, config: str | None) -> BeirFiles:
    """Fetches the files of a set: those that its card names, else those in the usual places."""
    configs = _configs(name)
    prefix = "" if config is None else f"{config}-"
    if f"{prefix}corpus" in configs:
        return _of_configs(name, configs, config)
    languages = sorted(config.removesuffix("-corpus") for config in configs if config.endswith("-corpus"))
    if config is not None or languages:
        choice = ", ".join(f"{name}:{language}" for language in languages) or f"{name} without a config"
        raise ValueError(f"beir: expected one of {choice}, got '{name}{f':{config}' * bool(config)}'; name that")
    root = _snapshot(name, _WANTED)
    if not _has_judgements(root):
        return _with_judgements(root, _snapshot(f"{name}-qrels", _WANTED))
    return beir_files(root)


def _of_configs(name: str, configs: Mapping[str, Mapping[str, Sequence[str]]], config: str | None) -> BeirFiles:
    prefix = "" if config is None else f"{config}-"
    judgement_config = next(
        (name for name in (f"{prefix}qrels", config or "default", "qrels") if name in configs and name != "corpus"),
        None,
    )
    config_names = [f"{prefix}corpus", f"{prefix}queries", *([] if judgement_config is None else [judgement_config])]
    root = _snapshot(
        name, [pattern for config in config_names for names in configs.get(config, {}).values() for pattern in names]
    )
    files = {config_name: _matching(root, configs.get(config_name, {})) for config_name in config_names}
    corpus, queries = ([file for _, file in files[config_name]] for config_name in config_names[:2])
    if judgement_config is None:
        return BeirFiles(corpus, queries, _with_judgements(root, _snapshot(f"{name}-qrels", _WANTED)).judgements)
    shards = [(f"{split}-0-of-1", file) for split, file in files[judgement_config]]
    return BeirFiles(corpus, queries, by_split(root, shards))


def _with_judgements(root: Path, judgement_root: Path) -> BeirFiles:
    """The texts of one repository with the judgements of another, whose files lie in its root or in a folder."""
    texts = beir_files(root, judgements=False)
    files_in_root = [
        file for file in sorted(judgement_root.iterdir()) if file.name.endswith((".tsv", ".jsonl", ".parquet"))
    ]
    if files_in_root:
        splits = by_split(judgement_root, [(file.name.split(".")[0], file) for file in files_in_root])
        return texts._replace(judgements=splits)
    return texts._replace(judgements=judgement_files(judgement_root))


def _has_judgements(root: Path) -> bool:
    return any((root / name).is_dir() for name in ("qrels", "default", "data")) or any(root.glob("qrels*"))


def _matching(root: Path, patterns: Mapping[str, Sequence[str]]) -> list[tuple[str, Path]]:
    """Files of each split in the order of their names.

    Raises:
        MalformedFileError: if a pattern matches none.
    """
    paths = {file.relative_to(root).as_posix(): file for file in sorted(root.rglob("*")) if file.is_file()}
    files = []
    for split, names in patterns.items():
        matches = [file for path, file in paths.items() if any(fnmatch.fnmatch(path, name) for name in names)]
        if not matches:
            raise MalformedFileError(root, None, f"files such as {', '.join(names)}", "none", "fetch the set again")
        files += [(split, file) for file in matches]
    return files


def _configs(name: str) -> dict[str, dict[str, list[str]]]:
    """Reads config, split and patterns of files from the card of a set, where it states them."""
    card = _snapshot(name, [_CARD]) / _CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    head = re.match(r"\s*---\s*\n(.*?)\n---", text, re.DOTALL)
    if head is None:
        return {}
    import yaml

    try:
        content = yaml.safe_load(head[1])
        entries = content.get("configs") or [] if isinstance(content, dict) else []
        return {entry["config_name"]: dict(_splits(entry.get("data_files") or [])) for entry in entries}
    except (yaml.YAMLError, TypeError, KeyError, AttributeError):
        return {}


def _splits(data_files: Any) -> Iterator[tuple[str, list[str]]]:
    entries = data_files if isinstance(data_files, list) else [data_files]
    for entry in entries:
        data_file = entry if isinstance(entry, dict) else {"split": "test", "path": entry}
        paths = data_file["path"]
        yield data_file.get("split", "test"), [paths] if isinstance(paths, str) else list(paths)


def _snapshot(name: str, patterns: Sequence[str]) -> Path:
    """Fetches files of a repository, or takes them from the cache.

    Raises:
        ModuleNotFoundError: if huggingface_hub is not installed.
        ValueError: if there is no such repository or the hub cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "huggingface_hub: expected it for a set by its name on the hub, found nothing; install "
            "lightning-normdyn[text], or name a folder"
        ) from error
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        is_missing = getattr(getattr(error, "response", None), "status_code", None) in (401, 403, 404)
        reason = (
            "the hub has no such set, or gives it to members alone; check the name, or log in with hf auth login"
            if is_missing
            else "the hub cannot be reached and no copy of it is in the cache; connect, or name a folder"
        )
        raise ValueError(
            f"beir: expected a folder or a set on the hub, got '{name}': no such folder, and {reason}"
        ) from error
