"""The rooms of recsys/ and who may import whom. The dictionary is the diagram."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASE = {"tables", "batch", "shards", "vectors", "config", "errors", "heap", "results", "stopping"}
MAY_IMPORT = {
    "__init__": set(),  # the version alone, which everyone may read
    "errors": set(),
    "heap": set(),
    "stopping": set(),
    "tables": {"errors"},
    "batch": {"errors"},
    "shards": {"errors"},
    "vectors": {"shards", "errors"},
    "results": {"shards", "errors"},
    "config": {"errors", "tables"},
    "data": BASE,
    "models": {"batch", "config", "errors"},
    "losses": {"errors"},
    "metrics": {"errors"},
    "training": BASE | {"data", "models", "losses", "metrics"},
    "retrieval": BASE | {"data", "models"},
    "recommend": BASE | {"data", "models", "metrics", "retrieval"},
    "reports": {"tables", "metrics", "errors"},
}
DOORS = {"__main__", "cli", "demo"}  # the commands: they may open every room
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MUST_BE_FALSE = ("allow_pickle", "trust_remote_code")

SOURCES = sorted(ROOT.glob("recsys/**/*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports anywhere, deferred imports included; a relative one starts with a dot."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ("." * node.level + f"{node.module or ''}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> Iterator[str]:
    """The modules of recsys that a file imports: of `recsys.data.tokens.encode` the part `recsys.data.tokens`."""
    for name in imports(path):
        if name.split(".")[0] == "recsys":
            yield name if name in MODULES else name.rpartition(".")[0]


def calls(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Every call as (what is called, its keyword arguments), both as source text."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg or "**": ast.unparse(word.value) for word in node.keywords}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_every_import_between_rooms_is_in_the_table() -> None:
    inside = {name: path for name, path in MODULES.items() if room(name) not in DOORS}
    assert {room(name) for name in inside} <= MAY_IMPORT.keys(), "a room that the table does not know"
    wrong = [
        f"{name} imports {found}"
        for name, path in inside.items()
        for found in own_imports(path)
        if room(found) not in MAY_IMPORT[room(name)] | {room(name), "__init__"}
    ]
    assert not wrong


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: set(own_imports(path)) - {name} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_imports_are_absolute() -> None:
    assert not [(path, name) for path in SOURCES for name in imports(path) if name.startswith(".")]


def test_no_file_is_named_for_nothing() -> None:
    paths = [path for folder in ("recsys", "tests", "benchmarks") for path in ROOT.glob(f"{folder}/**/*")]
    assert not [path for path in paths if path.stem.removeprefix("test_") in FORBIDDEN_NAMES]


@pytest.mark.parametrize("library", ["wandb", "faiss", "bm25s", "onnx", "matplotlib", "captum"])
def test_a_heavy_library_has_one_importing_file(library: str) -> None:
    importers = {path for path in SOURCES for name in imports(path) if name.split(".")[0] == library}
    assert len(importers) <= 1, importers


def test_nothing_that_runs_code_is_loaded() -> None:
    unsafe = [(path, name) for path in SOURCES for name in imports(path) if name.split(".")[0] in UNSAFE_MODULES]
    for path in SOURCES:
        for function, words in calls(path):
            if function == "torch.load" and words.get("weights_only") != "True":
                unsafe.append((path, function))
            unsafe += [(path, word) for word in MUST_BE_FALSE if words.get(word, "False") != "False"]
    assert not unsafe


def test_nothing_is_left_for_later() -> None:
    later = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    assert not [path for path in SOURCES if later.search(path.read_text(encoding="utf-8"))]
