"""How the settings of runs differ: the trainings and the inference that a run is made of, key by key."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recsys.errors import InputError
from recsys.reports.files import read_text

PLACES = {
    "": {"name", "runs", "data.cache", "track", "task"},
    "pruner": {"candidates"},
    "infer": {"retriever", "pruner", "output", "overwrite"},
}
"""Keys that say where things lie, of every run ("") and of a task; they always differ and change nothing."""

ABSENT, PRESENT = "-", "yes"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting that is not the same in all runs."""

    key: str
    tasks: Sequence[str]
    """Whose setting it is: retriever, pruner, infer."""
    values: Sequence[str]
    """One for each run."""


def trainings(run: Path) -> dict[str, Path]:
    """The training runs that a run stands on, by task: itself, and those that its infer.yaml names."""
    named = _read(run / "infer.yaml")
    folders = [run, *(Path(named[key]) for key in ("retriever", "pruner") if isinstance(named.get(key), str))]
    found: dict[str, Path] = {}
    for folder in folders:
        task = _read(folder / "config.yaml").get("task")
        if isinstance(task, str):
            found.setdefault(task, folder)
    return found


def find_differences(runs: Sequence[Path]) -> list[Difference]:
    """Every setting whose value differs, dotted, in the order of the configs; the same change of two tasks is one.

    A task that some run has no part of is told in one line, not by its settings.
    """
    parts = [_settings(run) for run in runs]
    tasks = dict.fromkeys(task for one in parts for task in one)
    lacking = [task for task in tasks if not all(task in one for one in parts)]
    settings = [
        {(task, key): value for task, keys in one.items() if task not in lacking for key, value in keys.items()}
        for one in parts
    ]
    found: dict[tuple[str, ...], list[str]] = {
        (task, *(PRESENT if task in one else ABSENT for one in parts)): [task] for task in lacking
    }
    for task, key in dict.fromkeys(pair for one in settings for pair in one):
        values = [one.get((task, key), ABSENT) for one in settings]
        if len(set(values)) > 1:
            found.setdefault((key, *values), []).append(task)
    return [Difference(key=key, tasks=tasks, values=values) for (key, *values), tasks in found.items()]


def _settings(run: Path) -> dict[str, dict[str, str]]:
    """By task, of those that the run has a config of."""
    configs = {task: _read(folder / "config.yaml") for task, folder in trainings(run).items()}
    configs["infer"] = _read(run / "infer.yaml")
    return {
        task: {
            key: value
            for key, value in _flat(config)
            if not any(_below(key, place) for place in PLACES[""] | PLACES.get(task, set()))
        }
        for task, config in configs.items()
        if config
    }


def _below(key: str, place: str) -> bool:
    return key == place or key.startswith(f"{place}.")


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read(path: Path) -> dict[str, Any]:
    """A YAML mapping; empty where the file is absent."""
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no mapping; expected the settings of a run.")
    return content
