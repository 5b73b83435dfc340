"""A run's files as the reports read them, and pages written in one step. A broken file is refused by name and line."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.errors import InputError
from recsys.reports.figures import duration, metric_label, needs_extra, number

if TYPE_CHECKING:
    from jinja2 import Template


def read_text(path: Path) -> str:
    """The whole file."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error}); write it again or take it away.") from error


def _parse(text: str, path: Path, first_line: int = 1) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise InputError(
            f"{path}, line {line}: not valid JSON ({error.msg}); mend the line or take it away."
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path}, line {first_line}: found a {type(value).__name__}; expected a JSON object {{...}}.")
    return value


def read_json(path: Path) -> dict[str, Any] | None:
    """The object that a file holds; None where the file is absent."""
    return _parse(read_text(path), path) if path.is_file() else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one on each line; none where the file is absent."""
    if not path.is_file():
        return []
    lines = enumerate(read_text(path).split("\n"), 1)
    return [_parse(line, path, at) for at, line in lines if line.strip()]


def replace_file(path: Path, text: str) -> None:
    """Write beside `path`, then rename: the old file stays whole until the new one is."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"Cannot write {path} ({error}); make the folder writable or free some disk space.") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        os.chmod(name, 0o644)  # mkstemp's own mode keeps other readers out
        os.replace(name, path)
    except OSError as error:
        raise InputError(f"Cannot write {path} ({error}); free some disk space or make it writable.") from error
    finally:
        Path(name).unlink(missing_ok=True)  # nothing is there once it has been renamed


def open_template(name: str, **filters: Callable[..., str]) -> "Template":
    """A page's template, with the filters `number`, `duration`, `label` and those that are given."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise needs_extra("jinja2") from error
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "duration": duration, "label": metric_label, **filters}
    return environment.get_template(name)
