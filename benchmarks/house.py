"""How the source is built: sizes of files and functions, folders, public names, and the words that name variables.

    python benchmarks/house.py [--root PATH] [--json FILE]   the table of a checkout, by default of this one
    python benchmarks/house.py --compare REVISION            that revision | the working tree
    python benchmarks/house.py --list [PATH_PREFIX]          file:line: name of every dialect variable
    python benchmarks/house.py --peers [SITE_PACKAGES]       and the dialect of installed packages of the field

Needs Python and git alone, and imports nothing of what it measures. Code lines leave out blank lines, comments and
docstrings. ``__init__.py``, ``__main__.py`` and ``_version.py`` are files, but never count as small ones.

A dialect variable is one whose whole name is a past participle, a pronoun or an adverb (``found``, ``one``, ``kept``):
the reader learns what happened to the value and not what it is. Each place that binds a name counts once: assignments,
loops, ``with``, comprehensions, ``:=``, ``except``, patterns, parameters (``self`` and ``cls`` left out), fields of a
class, attributes that are assigned. Parameters of ``__eq__`` and its like, which Python's protocols name, count among
the bindings and never as dialect.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import datetime
import io
import json
import statistics
import subprocess
import sysconfig
import tarfile
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = "lightning_normdyn"
SMALL = 40  # code lines
APART = ("__init__.py", "__main__.py", "_version.py")
LAYOUT_TOKENS = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}

# The dialect, as whole names. Not in it, because the field uses them as nouns or as a pair: `left` (and right), `split`
# (train, test), `hidden` (state), `bound`, `spread`, `cut`, `half`, `set`, `input`, `output`.
_PRONOUNS = (
    "all_ anything both each either enough every everything few here its itself least less many mine more most "
    "much neither none nothing one ones other others ours own parts rest same several some something such that "
    "theirs them then there these they this those whole"
)
_ADVERBS = "about after again at away before beside by never now of once still yet"
_IRREGULAR_PARTICIPLES = (
    "become begun bent bought broken brought built caught chosen come dealt done drawn driven eaten fallen felt "
    "forgotten fought found given gone got grown heard held hung kept known laid learnt led lent lost made "
    "meant met overwritten paid put read redrawn risen said seen sent shaken shown shut sold sought spent "
    "spoken stolen stood stuck struck sunk swept taken taught thought thrown told torn understood undone "
    "unknown unseen woken won worn written"
)
DIALECT = {
    "pronoun": frozenset(_PRONOUNS.split()),
    "irregular participle": frozenset(_IRREGULAR_PARTICIPLES.split()),
    "adverb": frozenset(_ADVERBS.split()),
}
# Any other word in -ed is a regular participle, except those that are none and those that name a quantity or an option
# by themselves in torchmetrics, einops, open_clip, timm, transformers or Lightning; and `predicted`,
# the pair of `observed`.
_NO_PARTICIPLES = "bed deepspeed embed feed need pred proceed red sched seed shed speed weed"
_FIELD_PARTICIPLES = (
    "completed elapsed enabled encoded expected initialized normalized observed ordered packed padded pooled "
    "predicted pretrained quantized ranked reduced required squared unpacked"
)
NOT_DIALECT = frozenset((_NO_PARTICIPLES + " " + _FIELD_PARTICIPLES).split())
PEERS = {
    "torchmetrics": "torchmetrics",
    "einops": "einops",
    "open_clip": "open_clip",
    "transformers, BERT": "transformers/models/bert",
    "Lightning, callbacks": "pytorch_lightning/callbacks",
}


class Binding(NamedTuple):
    """A place that gives a name to a value."""

    path: str
    line: int
    name: str
    is_prescribed: bool


class SourceFile(NamedTuple):
    """What is counted in a file."""

    path: str
    code_lines: int
    function_lines: tuple[int, ...]
    has_one_function: bool
    public_names: tuple[str, ...] | None
    bindings: tuple[Binding, ...]


def dialect_kind(name: str) -> str | None:
    """Which kind of bare word a name is, if it is nothing else; underscores around it do not count."""
    words = (name.lstrip("_"), name.strip("_"))
    for kind, vocabulary in DIALECT.items():
        if not vocabulary.isdisjoint(words):
            return kind
    is_regular = words[1].endswith("ed") and words[1].isalpha() and words[1].islower()
    return "regular participle" if is_regular and words[1] not in NOT_DIALECT else None


def code_line_numbers(text: str, tree: ast.Module) -> set[int]:
    """Numbers of the lines that hold code: no blank line, comment or docstring."""
    docstring_lines = {
        number
        for node in map(docstring_of, ast.walk(tree))
        if node is not None
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    numbers: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in LAYOUT_TOKENS or (token.type == tokenize.STRING and token.start[0] in docstring_lines):
            continue
        numbers.update(range(token.start[0], token.end[0] + 1))
    blank_lines = {number for number, line in enumerate(text.split("\n"), 1) if not line.strip()}
    return numbers - blank_lines


def docstring_of(node: ast.AST) -> ast.Expr | None:
    """The statement that is the docstring of a module, class or function."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not node.body:
        return None
    first = node.body[0]
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return first if is_text else None  # type: ignore[return-value]


def bindings_of(path: str, tree: ast.Module) -> Iterator[Binding]:
    """Every place of a file that binds a name, without ``self`` and ``cls``."""
    prescribed = {id(argument) for function in functions_of(tree) for argument in prescribed_arguments(function)}
    for node in ast.walk(tree):
        name = bound_name(node)
        if name is not None and name not in ("self", "cls"):
            yield Binding(path, node.lineno, name, id(node) in prescribed)  # type: ignore[attr-defined]


def bound_name(node: ast.AST) -> str | None:
    """The name that this node itself binds, if any."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
            return name
        case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
            return name
        case ast.MatchMapping(rest=name):
            return name
    return None


def functions_of(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods at any depth."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def prescribed_arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    """Parameters that a protocol of Python names: those of ``__eq__`` and its like, not those of ``__init__``."""
    is_protocol = function.name.startswith("__") and function.name.endswith("__")
    if not is_protocol or function.name in ("__init__", "__new__", "__call__", "__post_init__"):
        return []
    return [*function.args.posonlyargs, *function.args.args]


def measure_file(path: str, text: str) -> SourceFile:
    """Counts a file's lines, functions, public names and bindings."""
    tree = ast.parse(text)
    numbers = code_line_numbers(text, tree)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    has_class = any(isinstance(node, ast.ClassDef) for node in tree.body)
    return SourceFile(
        path,
        len(numbers),
        tuple(lines_of(function, numbers) for function in functions_of(tree)),
        len(functions) == 1 and not has_class,
        public_names_of(tree),
        tuple(bindings_of(path, tree)),
    )


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef, code_numbers: set[int]) -> int:
    """Code lines of a function's body."""
    first, last = function.body[0].lineno, function.end_lineno or function.lineno
    return len(code_numbers.intersection(range(first, last + 1)))


def public_names_of(tree: ast.Module) -> tuple[str, ...] | None:
    """What ``__all__`` lists, be it literal or made of literals of the same file; None where it is neither."""
    values: dict[str, Any] = {
        "__builtins__": {"dict": dict, "list": list, "sorted": sorted, "tuple": tuple, "set": set}
    }
    names: tuple[str, ...] | None = ()
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        titles = [target.id for target in targets if isinstance(target, ast.Name)]
        if "__all__" in titles:
            names = None if names is None else evaluate_names(node.value, values, names)
        else:
            with contextlib.suppress(ValueError, TypeError):
                values |= dict.fromkeys(titles, ast.literal_eval(node.value))
    return names


def evaluate_names(expression: ast.expr, values: dict[str, Any], names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Names collected so far and those of an expression; None where it needs more than the literals of its file."""
    try:
        return names + tuple(eval(compile(ast.Expression(expression), "__all__", "eval"), values))
    except (NameError, AttributeError, TypeError):
        return None


def measure_folder(folder: Path, root: Path) -> list[SourceFile]:
    """Every Python file under a folder, paths relative to the root."""
    files = []
    for path in sorted(folder.rglob("*.py")):
        file = measure_file(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
        stub = path.with_suffix(".pyi")
        files.append(
            file._replace(public_names=stub_names(stub.read_text(encoding="utf-8"))) if stub.exists() else file
        )
    return files


def stub_names(text: str) -> tuple[str, ...]:
    """Public names that a stub re-exports from its package's modules, the modules themselves left out."""
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom) and node.module]
    return tuple(alias.asname for node in imports for alias in node.names if alias.asname)


def dialect_of(files: Iterable[SourceFile]) -> list[Binding]:
    """The bindings whose names are dialect."""
    bindings = (binding for file in files for binding in file.bindings)
    return [binding for binding in bindings if dialect_kind(binding.name) and not binding.is_prescribed]


def measure_tree(root: Path) -> dict[str, Any]:
    """All figures of a checkout."""
    files = measure_folder(root / PACKAGE, root)
    if not files:
        raise SystemExit(f"house: {root / PACKAGE} holds no Python files; --root names the folder of a checkout")
    readme = root / "README.md"
    return {
        "files": file_figures(files),
        "largest_folders": dict(Counter(Path(file.path).parent.as_posix() for file in files).most_common(5)),
        "code_lines": {
            "functions": spread_of([lines for file in files for lines in file.function_lines]),
            "files": spread_of([file.code_lines for file in files]),
        },
        "variables": variable_figures(files),
        "public_names": public_figures(files),
        "readme_words": len(readme.read_text(encoding="utf-8").split()) if readme.exists() else 0,
    }


def file_figures(files: list[SourceFile]) -> dict[str, int]:
    """How many files there are, and how many of them are small."""
    judged = [file for file in files if Path(file.path).name not in APART]
    return {
        "all": len(files),
        "without_init": sum(not file.path.endswith("/__init__.py") for file in files),
        "apart": len(files) - len(judged),
        "small": sum(file.code_lines < SMALL for file in judged),
        "one_function": sum(file.has_one_function for file in judged),
    }


def spread_of(sizes: list[int]) -> dict[str, float]:
    """Number, median and 90th percentile (nearest rank)."""
    ordered = sorted(sizes)
    p90 = ordered[-(-9 * len(ordered) // 10) - 1] if ordered else 0
    return {"number": len(ordered), "median": statistics.median(ordered or [0]), "p90": p90}


def variable_figures(files: list[SourceFile]) -> dict[str, Any]:
    """How many bindings there are, and what share of them is dialect, by kind of word."""
    total = sum(len(file.bindings) for file in files)
    variables = dialect_of(files)
    kinds = Counter(dialect_kind(binding.name) for binding in variables)
    irregular = kinds["pronoun"] + kinds["irregular participle"]
    return {
        "bindings": total,
        "dialect": len(variables),
        "share": share(len(variables), total),
        "irregular": irregular,
        "irregular_share": share(irregular, total),
        "kinds": {kind: kinds[kind] for kind in (*DIALECT, "regular participle")},
        "most_frequent": dict(Counter(binding.name.strip("_") for binding in variables).most_common(20)),
    }


def share(count: int, total: int) -> float:
    """A part of a total; 0 of nothing."""
    return round(count / total, 5) if total else 0.0


def public_figures(files: list[SourceFile]) -> dict[str, Any]:
    """Length of ``__all__`` in each package and in all, and how many names differ."""
    packages: dict[str, tuple[str, ...]] = {}
    for file in files:
        if file.path.endswith("/__init__.py"):
            if file.public_names is None:
                raise SystemExit(f"house: {file.path}: __all__ is made of more than literals of its own file")
            packages[Path(file.path).parent.as_posix()] = file.public_names
    return {
        "all": sum(map(len, packages.values())),
        "distinct": len({name for names in packages.values() for name in names}),
        "packages": {package: len(names) for package, names in packages.items() if names},
    }


def list_dialect(root: Path, prefix: str) -> str:
    """A line for every dialect variable below a path."""
    lines = [
        f"{binding.path}:{binding.line}: {binding.name} ({dialect_kind(binding.name)})"
        for binding in sorted(dialect_of(measure_folder(root / PACKAGE, root)))
        if binding.path.startswith(prefix.removeprefix("./"))
    ]
    return "\n".join([*lines, f"{len(lines)} dialect variables"])


def measure_revision(root: Path, revision: str) -> dict[str, Any]:
    """All figures of a commit, extracted into a folder that is removed afterwards."""
    archive = git(root, "archive", "--format=tar", revision)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(archive)) as tree:
        tree.extractall(folder, filter="data")
        return {"revision": name_of(root, revision)} | measure_tree(Path(folder))


def git(root: Path, *arguments: str) -> bytes:
    """What a git command prints in a checkout; ends with git's own message when it fails."""
    finished = subprocess.run(["git", "-C", root, *arguments], capture_output=True, check=False)
    if finished.returncode:
        raise SystemExit(f"house: git {arguments[0]}: {finished.stderr.decode().strip()}")
    return finished.stdout


def name_of(root: Path, revision: str | None) -> str:
    """A commit's short name; of the working tree, the last commit of what is measured and whether that is changed."""
    if revision is not None:
        return git(root, "rev-parse", "--short", f"{revision}^{{commit}}").decode().strip()
    if not (root / ".git").exists():
        return root.name
    measured_paths = ("--", PACKAGE, "README.md")
    commit = git(root, "log", "-1", "--format=%h", *measured_paths).decode().strip()
    return f"{commit}, changed" if git(root, "status", "--porcelain", *measured_paths) else commit


def measure_peers(site_packages: Path) -> dict[str, Any]:
    """The same shares in packages of the field that are installed, their own tests left out."""
    figures = {}
    for title, folder in PEERS.items():
        files = measure_folder(site_packages / folder, site_packages)
        figures[title] = variable_figures([file for file in files if "/tests/" not in file.path])
    return figures


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    trees = report["trees"]
    lines = [
        f"# The house, {report['date']}",
        "",
        f"`python benchmarks/house.py`, revision {' | '.join(tree['revision'] for tree in trees)}. Code lines: no "
        "blank lines, comments, docstrings; those of a function are its body's. "
        f"{', '.join(APART)} are never small files.",
        "",
        *table(["", *(tree["revision"] for tree in trees)], zip(ROWS, *map(cells, trees), strict=True)),
    ]
    for title, counts in (
        ("Largest folders, files directly inside", [tree["largest_folders"] for tree in trees]),
        ("Public names", [tree["public_names"]["packages"] for tree in trees]),
        ("Most frequent dialect variables", [tree["variables"]["most_frequent"] for tree in trees]),
    ):
        lines += ["", f"## {title}", "", *count_table(trees, counts)]
    if report.get("peers"):
        peers = [(title, *peer_cells(figures)) for title, figures in report["peers"].items()]
        head = ["", "bindings", "pronouns, irregular participles", "with adverbs and words in -ed"]
        lines += ["", "## Dialect elsewhere", "", *table(head, peers)]
    return "\n".join([*lines, ""])


ROWS = (
    "files",
    "files without `__init__.py`",
    f"files under {SMALL} code lines",
    "files of one function and no class",
    "functions, methods included",
    "code lines of a function: median",
    "code lines of a function: p90",
    "code lines of a file: median",
    "code lines of a file: p90",
    "places that bind a variable",
    "pronouns and irregular participles",
    "their share",
    "dialect, with adverbs and words in -ed",
    "its share",
    "public names, sum over packages",
    "public names, distinct",
    "words in README.md",
)


def cells(tree: dict[str, Any]) -> list[str]:
    """A checkout's column beside ROWS."""
    files, variables = tree["files"], tree["variables"]
    functions, lines = tree["code_lines"]["functions"], tree["code_lines"]["files"]
    counts = [files["all"], files["without_init"], files["small"], files["one_function"], functions["number"]]
    sizes = [functions["median"], functions["p90"], lines["median"], lines["p90"]]
    return [
        *(f"{count:,}" for count in counts),
        *(f"{size:g}" for size in sizes),
        f"{variables['bindings']:,}",
        f"{variables['irregular']:,}",
        f"{variables['irregular_share']:.2%}",
        f"{variables['dialect']:,}",
        f"{variables['share']:.2%}",
        f"{tree['public_names']['all']:,}",
        f"{tree['public_names']['distinct']:,}",
        f"{tree['readme_words']:,}",
    ]


def peer_cells(figures: dict[str, Any]) -> tuple[str, str, str]:
    """A package's row after its name."""
    return f"{figures['bindings']:,}", f"{figures['irregular_share']:.2%}", f"{figures['share']:.2%}"


def count_table(trees: list[dict[str, Any]], counts: list[dict[str, int]]) -> list[str]:
    """A table of counts by name; a name that a tree lacks, or that is not among its first, is left blank."""
    names = list(dict.fromkeys(name for column in counts for name in column))
    rows = [(name, *(str(column.get(name, "")) for column in counts)) for name in names]
    return table(["", *(tree["revision"] for tree in trees)], rows)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a Markdown table."""
    titles = list(head)
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="folder of the checkout")
    parser.add_argument("--compare", metavar="REVISION", help="measure this revision too, and print it before")
    parser.add_argument("--list", nargs="?", const="", metavar="PATH_PREFIX", help="only list the dialect variables")
    parser.add_argument(
        "--peers",
        nargs="?",
        type=Path,
        const=Path(sysconfig.get_path("purelib")),
        metavar="SITE_PACKAGES",
        help="count in other packages too; in those of this Python if no folder is named",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args()
    root = options.root.resolve()
    if options.list is not None:
        print(list_dialect(root, options.list))
        return
    trees = [measure_revision(root, options.compare)] if options.compare else []
    trees.append({"revision": name_of(root, None)} | measure_tree(root))
    report: dict[str, Any] = {"date": datetime.date.today().isoformat(), "trees": trees}
    if options.peers:
        report["peers"] = measure_peers(options.peers)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(tabulate(report))


if __name__ == "__main__":
    main()
