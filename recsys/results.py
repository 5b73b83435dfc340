"""results.json of a run's folder: the figures of each stage, side by side."""

import json
from pathlib import Path
from typing import Any

from recsys.errors import InputError
from recsys.shards import write_atomic


def read_results(folder: Path) -> dict[str, Any]:
    """What stands in FOLDER/results.json, or no stages."""
    path = folder / "results.json"
    if not path.is_file():
        return {"stages": []}
    try:
        content = json.loads(path.read_text())
        return {**content, "stages": [{**stage, "name": stage["name"]} for stage in content["stages"]]}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} does not hold results ({error}); remove it and run the stage again.") from error


def stage(name: str, metrics: dict[str, float], seconds: float | None = None) -> dict[str, Any]:
    """One stage's figures, as they stand in the file."""
    return {"name": name, "metrics": metrics, "seconds": seconds}


def add_stage(folder: Path, name: str, metrics: dict[str, float], *, seconds: float | None = None) -> None:
    """Add one stage's figures at the end, in place of those of the same name."""
    others = [one for one in read_results(folder)["stages"] if one["name"] != name]
    write_stages(folder, [*others, stage(name, metrics, seconds)])


def write_stages(folder: Path, stages: list[dict[str, Any]]) -> None:
    """Replace all stages; the number of queries is that of the last one."""
    queries = int(stages[-1]["metrics"].get("queries", 0))
    write_results(folder, {**read_results(folder), "stages": stages, "queries": queries})


def write_results(folder: Path, content: dict[str, Any]) -> None:
    """Replace results.json in one step."""
    write_atomic(folder / "results.json", json.dumps(content, indent=1))
