"""Sixty mistakes that people make in a YAML file, each made to the shipped config of the token task."""

from collections.abc import Callable
from pathlib import Path

CONFIG = Path(__file__).parents[2] / "lightning_normdyn" / "configs" / "tokens.yaml"

Change = Callable[[str], str | bytes]


def put(old: str, new: str) -> Change:
    """The text with other words in one place, which must be there."""

    def change(text: str) -> str:
        assert old in text, old
        return text.replace(old, new, 1)

    return change


def cut_at(words: str) -> Change:
    """The text up to some words."""
    return lambda text: text[: text.index(words) + len(words)]


def whole(content: str | bytes) -> Change:
    """Something else altogether."""
    return lambda _: content


MISTAKES: dict[str, tuple[Change, str]] = {
    # name: (change, what the message has to name)
    "tab for indentation": (put("  max_steps", "\tmax_steps"), r"config: .*line \d+"),
    "tab in a nested mapping": (put("    dim: 64", "\t\tdim: 64"), r"config: .*line \d+"),
    "tab after a dash": (
        put("    - class_path: lightning_normdyn", "\t- class_path: lightning_normdyn"),
        r"config: .*line",
    ),
    "indented too far": (put("  max_steps", "     max_steps"), r"config: .*line \d+"),
    "indented too little": (put("    temperature", "   temperature"), r"config: .*line \d+"),
    "top key indented": (put("\ntrainer:", "\n  trainer:"), r"trainer|config: .*line"),
    "outdented list": (
        put("    - class_path: lightning_normdyn.callbacks", "- class_path: lightning_normdyn.callbacks"),
        r"config: .*line",
    ),
    "missing colon": (put("max_steps: 12000", "max_steps 12000"), r"config: .*line \d+"),
    "missing space after colon": (put("dim: 64", "dim:64"), r"config: .*line|dim:64"),
    "missing space after colon at the end": (
        put("  max_steps: 12000", "  max_steps:12000"),
        r"config: .*line|max_steps",
    ),
    "two colons": (put("dim: 64", "dim: : 64"), r"config: .*line|dim"),
    "equals sign": (put("dim: 64", "dim = 64"), r"config: .*line|dim"),
    "unclosed single quote": (put("normalization: cosine", "normalization: 'cosine"), r"config: .*line"),
    "unclosed double quote": (put("normalization: cosine", 'normalization: "cosine'), r"config: .*line"),
    "unclosed bracket": (put("[table.weight]", "[table.weight"), r"config: .*line"),
    "unclosed brace": (put("text: null", "text: {a: 1"), r"config: .*line|text"),
    "stray bracket": (put("[table.weight]", "table.weight]"), r"config: .*line|targets"),
    "bad escape": (put("normalization: cosine", 'normalization: "\\cosine"'), r"config: .*line"),
    "percent sign": (put("dim: 64", "dim: %64"), r"config: .*line|dim"),
    "at sign": (put("dim: 64", "dim: @64"), r"config: .*line|dim"),
    "backtick": (put("dim: 64", "dim: `64`"), r"config: .*line|dim"),
    "top key twice": (lambda text: f"{text}\nmodel:\n  class_path: x\n", "'model' again"),
    "inner key twice": (put("    dim: 64", "    dim: 64\n    dim: 32"), "'dim' again"),
    "key twice in a list": (
        put("        every_n_steps: 50", "        every_n_steps: 50\n        every_n_steps: 5"),
        "again",
    ),
    "unknown top key": (lambda text: f"{text}\nmodle: 3\n", "modle"),
    "unknown top mapping": (lambda text: f"{text}\nmodle:\n  class_path: x\n", "modle"),
    "unknown trainer key": (put("  max_steps", "  max_step"), r"trainer\.max_step\b"),
    "unknown model key": (put("    dim: 64", "    dims: 64"), r"model\.dims|dims"),
    "unknown data key": (put("    window: 3", "    windows: 3"), r"data\.windows|windows"),
    "unknown callback key": (put("        every_n_steps", "        every_steps"), r"trainer\.callbacks.*every_steps"),
    "key of init_args beside it": (put("  init_args:\n    dim: 64", "  dim: 64\n  init_args:"), r"model"),
    "no class_path": (put("  class_path: lightning_normdyn.tasks.TokenContrast\n", ""), r"model"),
    "no init_args": (put("  init_args:\n    dim", "  init_arg:\n    dim"), r"model"),
    "class_path misspelt": (put("TokenContrast", "TokenContrst"), r"model.*TokenContrst"),
    "module misspelt": (
        put("lightning_normdyn.tasks.Token", "lightning_normdn.tasks.Token"),
        r"model.*lightning_normdn",
    ),
    "class of another kind": (put("tasks.TokenContrast", "tasks.TokenPairs"), r"model"),
    "a function for a class": (put("lightning_normdyn.tasks.TokenContrast", "os.getcwd"), r"model"),
    "list for a mapping": (put("model:\n", "model:\n  - a\n  - b\nmodel_:\n"), r"model"),
    "list of mappings for init_args": (
        put("  init_args:\n    dim: 64", "  init_args:\n    - dim: 64\n  rest:"),
        r"model",
    ),
    "mapping for a list": (put("targets: [table.weight]", "targets: {a: 1}"), r"targets"),
    "mapping for a number": (put("dim: 64", "dim: {a: 1}"), r"dim"),
    "list for a number": (put("dim: 64", "dim: [64]"), r"dim"),
    "word for a number": (put("dim: 64", "dim: sixty"), r"dim"),
    "quoted number with a unit": (put("dim: 64", "dim: 64px"), r"dim"),
    "fraction for a whole number": (put("dim: 64", "dim: 64.5"), r"dim"),
    "comma for a point": (put("temperature: 0.1", "temperature: 0,1"), r"temperature"),
    "null for a number": (put("dim: 64", "dim: null"), r"dim"),
    "nothing for a number": (put("dim: 64", "dim:"), r"dim"),
    "yes for a number": (put("dim: 64", "dim: yes"), r"dim"),
    "number for a mapping": (put("trainer:\n", "trainer: 3\ntrainer_:\n"), r"trainer"),
    "number for a class": (
        put("    - class_path: lightning_normdyn.callbacks.NormDynamics", "    - 3\n    - class_path: x"),
        r"callbacks",
    ),
    "word for a choice": (put("optimizer: sgd", "optimizer: sdg"), r"optimizer.*sdg"),
    "upper case for a choice": (put("normalization: cosine", "normalization: Cosine"), r"normalization"),
    "unknown anchor": (put("dim: 64", "dim: *width"), r"config: .*line"),
    "python tag": (put("dim: 64", "dim: !!python/object/apply:os.getcwd []"), r"config: .*line|dim"),
    "merge of nothing": (put("    dim: 64", "    <<: 3\n    dim: 64"), r"config|model"),
    "Latin-1": (lambda text: f"# café\n{text}".encode("latin-1"), r"config: .*line 1"),
    "UTF-16": (lambda text: text.encode("utf-16"), r"config"),
    "NUL bytes": (lambda text: b"\0" + text.encode(), r"config"),
    "empty": (whole(""), r"config"),
    "comments alone": (whole("# nothing\n"), r"config"),
    "a list": (whole("- 1\n- 2\n"), r"config"),
    "JSON cut short": (whole('{"model": {"class_path": '), r"config"),
    "two documents": (lambda text: f"{text}\n---\n{text}", r"config"),
    "cut in a key": (cut_at("max_st"), r"config"),
    "Windows path in quotes": (put("save_dir: runs", 'save_dir: "C:\\users\\new"'), r"config: .*line"),
}
