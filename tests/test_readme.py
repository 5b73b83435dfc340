"""What the README tells a reader to do can be done."""

import ast
import inspect
import re
import shlex
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from recsys.cli import _command
from recsys.config import _check_override, parse_run, read_task
from recsys.recommend.run import STAGES
from recsys.recommend.settings import InferRun
from recsys.training.mlm_run import MlmRun
from recsys.training.pruner_run import PrunerRun
from recsys.training.retriever_run import RetrieverRun

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
KINDS = {"retriever": RetrieverRun, "pruner": PrunerRun, "mlm": MlmRun, "infer": InferRun}
READERS_OWN = {"my.yaml": RetrieverRun, "my_pruner.yaml": PrunerRun, "my_infer.yaml": InferRun}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Every line of a bash block that starts one of the project's commands, without comments."""
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if words and words[0] in ("make", "recsys", "python")]


def recsys_arguments(words: list[str]) -> list[str]:
    """What follows `recsys`: train.py and infer.py are its commands train and infer."""
    if words[0] == "recsys":
        return words[1:]
    assert words[1] in ("train.py", "infer.py"), words
    return [words[1].removesuffix(".py"), *words[2:]]


def kind_of(config: str) -> type:
    """The settings that a config of the project, or one that the README lets the reader write, is made of."""
    return READERS_OWN[config] if config in READERS_OWN else KINDS[read_task([str(ROOT / config)])]


def test_the_readme_has_commands():
    assert len(commands()) >= 8


@pytest.mark.parametrize("words", [one for one in commands() if one[0] == "make"], ids=" ".join)
def test_a_make_target_exists(words):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words[1:]) <= set(targets)


@pytest.mark.parametrize("words", [one for one in commands() if one[0] != "make"], ids=" ".join)
def test_a_command_names_what_exists(words):
    name, *rest = recsys_arguments(words)
    assert _command(name)
    if name == "infer":
        assert rest.pop(0) in STAGES
    if name in ("train", "infer", "validate"):
        kind = kind_of(rest[0])
        assert name == "validate" or (kind is InferRun) == (name == "infer")
        for option in rest[1:]:
            _check_override(option, kind)


def test_the_config_of_the_readme_loads(tmp_path):
    for page in PAGES:
        for block in blocks(page, "yaml"):
            content = yaml.safe_load(block)
            if isinstance(content, dict) and "task" in content:
                (tmp_path / "my.yaml").write_text(block)
                assert parse_run(KINDS[content["task"]], [str(tmp_path / "my.yaml")]).data.root


def test_the_python_of_the_readme_names_what_exists():
    for block in (block for page in PAGES for block in blocks(page, "python")):
        known: dict[str, object] = {}
        for line in ast.parse(block).body:
            if isinstance(line, ast.ImportFrom):
                module = import_module(line.module)
                known |= {alias.asname or alias.name: getattr(module, alias.name) for alias in line.names}
            call = getattr(line, "value", None)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                owner = known.get(ast.unparse(call.func.value))
                method = getattr(owner, call.func.attr)
                itself = [] if inspect.ismethod(method) else [owner]
                inspect.signature(method).bind(*itself, *call.args, **{word.arg: word.value for word in call.keywords})
            if isinstance(line, ast.Assign) and isinstance(call, ast.Call):
                known[ast.unparse(line.targets[0])] = known[ast.unparse(call.func.value)]
        assert known


def test_every_link_to_a_file_leads_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} -> {link}"


def test_the_extras_that_are_named_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lists = [found for page in PAGES for found in re.findall(r"(?:\.|recsys)\[([a-z,]+)\]", page.read_text())]
    assert lists
    assert set(",".join(lists).split(",")) <= set(extras)
