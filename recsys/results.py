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
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not readable JSON ({error}); remove it and run the stage again.") from error


def add_stage(folder: Path, name: str, metrics: dict[str, float], *, seconds: float | None = None) -> None:
    """Add one stage's figures, or replace those of the same name."""
    content = read_results(folder)
    stages = [stage for stage in content["stages"] if stage["name"] != name]
    stages.append({"name": name, "metrics": metrics, "seconds": seconds})
    write_results(folder, {**content, "stages": stages, "queries": int(metrics.get("queries", 0))})


def write_results(folder: Path, content: dict[str, Any]) -> None:
    """Replace results.json in one step."""
    write_atomic(folder / "results.json", json.dumps(content, indent=1))
