"""What a start on the same files need not find out again: what the door found, and the hash of the content."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from recsys.errors import InputError
from recsys.shards import fingerprint, write_atomic
from recsys.tables import TABLES, DataConfig, Fault
from recsys.tables.faults import Inspection
from recsys.tables.read import open_tables

FORMAT = 1
"""Version of the record; a change makes old ones unused."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A data set without errors."""

    hash: str
    """`Prepared.hash`."""
    usable: list[tuple[str, str]]
    faults: list[Fault]
    """The warnings."""

    @classmethod
    def of(cls, seen: Inspection, digest: str) -> "Checked":
        """What an inspection found."""
        return cls(hash=digest, usable=sorted(seen.usable), faults=list(seen.faults))

    @classmethod
    def read(cls, path: Path | None) -> "Checked | None":
        """What `write` wrote; None if it is not there, or is something else."""
        try:
            found = json.loads(path.read_text()) if path is not None else {}
            faults = [Fault(**{**one, "rows": tuple(one["rows"]), "values": tuple(one["values"])})
                      for one in found["faults"]]  # fmt: skip
            usable = [(table, column) for table, column in found["usable"]]
            return cls(hash=str(found["hash"]), usable=usable, faults=faults)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, path: Path | None) -> None:
        """As JSON. Where that cannot be, or the path is None, the next start looks again."""
        if path is not None:
            with suppress(InputError):
                write_atomic(path, json.dumps(asdict(self)))

    def inspection(self, config: DataConfig) -> Inspection:
        """As `inspect` gave it, the small tables read and the interactions not."""
        frames, _ = open_tables(config)
        held = {name: frame if name == "interactions" else frame.collect().lazy() for name, frame in frames.items()}
        return Inspection(config=config, frames=held, faults=tuple(self.faults), usable=frozenset(self.usable))


def checked_path(config: DataConfig) -> Path | None:
    """Where the record of these files and settings lies.

    A file is known by its name, size and times, so that a change of it is another record. None: a data set of Hugging
    Face, or pictures, which may change without a table's doing so.
    """
    places = [config.root, *filter(None, config.tables.values())]
    if (
        config.items.image is not None
        or config.queries.image is not None
        or any(place.startswith("hf:") for place in places)
    ):
        return None
    settings = asdict(config)
    for ignored in ("cache", "history"):
        settings.pop(ignored)
    stamps = [(str(path), *_stamp(path)) for path in sorted(set(_files(config)))]
    return Path(config.cache) / f"checked-{fingerprint(FORMAT, pl.__version__, settings, stamps)}.json"


def _files(config: DataConfig) -> Iterable[Path]:
    """The files that a table may be read from."""
    root = Path(config.root)
    folders = [root / name for names in TABLES.values() for name in names]
    for place in (root, *folders, *map(Path, filter(None, config.tables.values()))):
        yield from (path.resolve() for path in ([place] if place.is_file() else place.glob("*")) if path.is_file())


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
