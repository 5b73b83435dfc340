"""One table from one place (Parquet, CSV, Hugging Face data set) -> a lazy frame. No table is read whole here.

A CSV is scanned as strings throughout, and types are found by looking at every cell: a code like 007 keeps its zeros,
and one bad cell in row ten million is a fault with a row number instead of a parser's error.
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import polars as pl

from recsys.errors import InputError, nearest
from recsys.tables.config import TABLES
from recsys.tables.vectors import VECTOR, holds_vectors

Reading = Literal["number", "order"]

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""What polars raises for damaged or unreadable files."""

_SPLIT_WORDS = {"validation": "valid", "val": "valid", "dev": "valid"}
_INTEGER_ID = r"^(0|-?[1-9][0-9]{0,17})$"  # what comes back out as it went in: no leading zeros, no plus sign


@dataclass(frozen=True)
class Source:
    """A table that was found and not yet read."""

    frame: pl.LazyFrame
    typed: bool  # False: a CSV, every column is a string
    whole: frozenset[str] = frozenset()  # a CSV's columns whose ids are all integers


@contextmanager
def readable(table: str) -> Generator[None]:
    """Turn what polars says of a damaged file into one sentence that names the table."""
    try:
        yield
    except UNREADABLE as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{table}: cannot be read as a table: {said}. Write the file again.") from error


def open_source(root: str, names: tuple[str, ...], place: str | None) -> Source | None:
    """The table at `place`, else the one below `root` called by one of `names`; None if there is none or `place` is "".

    Raises:
        InputError: the place, the root or the file is missing, empty or damaged, or two files claim the name.
    """
    if place == "":
        return None
    with readable(names[0]):
        if place is None:
            return _scan_hub(root, names, whole=False) if root.startswith("hf:") else _find(root, names)
        return _scan_hub(place, names, whole=True) if place.startswith("hf:") else _scan_path(Path(place))


def _find(root: str, names: tuple[str, ...]) -> Source | None:
    if not Path(root).is_dir():
        raise InputError(f"Data folder {root!r} does not exist; set data.root to the folder that holds the tables.")
    folders = [Path(root) / name for name in names if (Path(root) / name).is_dir()]
    paths = [Path(root) / f"{name}{suffix}" for name in names for suffix in (".parquet", ".csv")]
    found = [path for path in paths if path.is_file()]
    found += [folder for folder in folders if any(folder.glob("*.parquet")) or not found]  # it may hold the pictures
    if len(found) > 1:
        both = " and ".join(path.name for path in found)
        raise InputError(
            f"{names[0]}: {both} both lie in {root!r}; remove one, or name the right one in data.tables.{names[0]}."
        )
    return _scan_path(found[0]) if found else None


def what_is_there(root: str, names: tuple[str, ...]) -> str:
    """A sentence part for a missing table: what was looked for, what the folder holds and the nearest name."""
    if root.startswith("hf:"):
        return f"the data set {root!r} has no subset or split called {' or '.join(names)}"
    looked = ", ".join(f"{name}{suffix}" for name in names for suffix in (".parquet", ".csv", "/"))
    there = sorted(path.name for path in Path(root).iterdir() if not path.name.startswith("."))
    shown = ", ".join(there[:12]) + (f" and {len(there) - 12} more" if len(there) > 12 else "")
    taken = {known for known_names in TABLES.values() for known in known_names}
    free = {Path(name).stem for name in there} - taken  # the users' file is no misspelt queries' file
    hint = next(filter(None, (nearest(name, free) for name in names)), "")
    return f"looked for {looked} in {root!r}, which holds {shown or 'nothing'}.{hint}"


def _scan_path(path: Path) -> Source:
    if path.is_dir():
        if not any(path.glob("*.parquet")):
            raise InputError(f"Folder {str(path)!r} holds no *.parquet parts; expected the parts of one table.")
        path = path / "*.parquet"
    elif not path.is_file():
        there = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(
            f"Table file {str(path)!r} does not exist; set data.tables to an existing file.{nearest(path.name, there)}"
        )
    typed = path.suffix != ".csv"
    frame = pl.scan_parquet(path) if typed else pl.scan_csv(path, infer_schema=False)
    frame.collect_schema()  # a damaged file fails here, under its own name
    return Source(frame, typed)


def _scan_hub(place: str, names: tuple[str, ...], whole: bool) -> Source | None:
    """`hf:NAME` or `hf:NAME#SUBSET`: the subset or split called by one of `names`; `whole`: else all there is."""
    name, _, subset = place.removeprefix("hf:").partition("#")
    faulty: Any = import_module("datasets.exceptions").DatasetsError  # slow to import, needed by few
    try:
        parts = _hub_parts(name, names, subset, whole)
    except (OSError, ValueError, faulty) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"Data set {place!r} cannot be loaded: {said}. Check its name.") from error
    return Source(_join_splits(parts), typed=True) if parts else None


def _hub_parts(name: str, names: tuple[str, ...], subset: str, whole: bool) -> dict[str, Any]:
    """Split -> data set. Nothing when no subset or split has one of the names."""
    datasets: Any = import_module("datasets")
    if (Path(name) / "dataset_dict.json").is_file():  # a folder that save_to_disk wrote has splits alone
        return _of_splits(dict(datasets.load_from_disk(name)), names, whole)
    subsets: list[str] = datasets.get_dataset_config_names(name)
    if subset and subset not in subsets:
        raise InputError(f"Data set {name!r} has no subset {subset!r}.{nearest(subset, subsets)}")
    chosen = next((wanted for wanted in (subset, *names) if wanted in subsets), None)
    if chosen:
        return dict(datasets.load_dataset(name, chosen))
    if len(subsets) == 1:
        return _of_splits(dict(datasets.load_dataset(name)), names, whole)
    if whole:
        raise InputError(f"Data set {name!r} has the subsets {', '.join(subsets)}; name one as hf:{name}#SUBSET.")
    return {}


def _of_splits(splits: dict[str, Any], names: tuple[str, ...], whole: bool) -> dict[str, Any]:
    """The split that is called as the table is; else, where the place is the table's own, all of them."""
    named = next((wanted for wanted in names if wanted in splits), None)
    return {named: splits[named]} if named else splits if whole else {}


def _join_splits(parts: dict[str, Any]) -> pl.LazyFrame:
    """One frame of all splits; where there are several, a column `split` says which (unless the table has one)."""
    frames: list[pl.LazyFrame] = []
    for word, part in parts.items():
        frame: pl.DataFrame = part.to_polars()  # numbers stay in the memory-mapped cache file
        if len(parts) > 1 and "split" not in frame.columns:
            frame = frame.with_columns(split=pl.lit(_SPLIT_WORDS.get(word, word)))
        frames.append(frame.lazy())
    return pl.concat(frames)


def readings(column: str, kind: Reading) -> list[pl.Expr]:
    """The ways to read a column of strings, best first; a cell that does not fit a way becomes null."""
    cell = pl.col(column)
    ways = [cell.cast(pl.Int64, strict=False), cell.cast(pl.Float64, strict=False)]
    if kind == "order":
        moment = cell.str.replace("T", " ", literal=True)
        ways.append(cell.str.to_date("%Y-%m-%d", strict=False))
        ways.append(moment.str.strip_suffix("Z").str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False))
        ways.append(moment.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", strict=False))
    return ways


def misfits(frame: pl.LazyFrame, column: str, kind: Reading) -> tuple[int, pl.Expr]:
    """Number of cells that fit not even the way that fits best, and the expression that finds them."""
    bad = [way.is_null() & pl.col(column).is_not_null() for way in readings(column, kind)]
    counts = frame.select(test.sum().alias(str(i)) for i, test in enumerate(bad)).collect(engine="streaming").row(0)
    best = min(range(len(bad)), key=lambda i: counts[i])
    return counts[best], bad[best]


def with_types(frame: pl.LazyFrame, kinds: dict[str, Reading]) -> pl.LazyFrame:
    """A CSV's columns of strings in the first type that fits all their cells; strings stay where none does."""
    ways = {(name, i): way for name, kind in kinds.items() for i, way in enumerate(readings(name, kind))}
    if not ways:
        return frame
    fits = [
        (way.is_null() & pl.col(name).is_not_null()).any().not_().alias(f"{name}/{i}")
        for (name, i), way in ways.items()
    ]
    answer = frame.select(fits).collect(engine="streaming").row(0, named=True)
    first = {name: next((i for i in range(len(ways)) if answer.get(f"{name}/{i}")), None) for name in kinds}
    return frame.with_columns(ways[name, i] for name, i in first.items() if i is not None)


def are_integers(frame: pl.LazyFrame, column: str) -> bool:
    """Whether every id in a column of strings is an integer that is written the plain way."""
    plain = pl.col(column).str.contains(_INTEGER_ID).all()
    return bool(frame.select(plain).collect(engine="streaming").item())


def as_plain(
    frame: pl.LazyFrame, ids: Iterable[str], words: Iterable[str], pictures: Iterable[str], vectors: Iterable[str]
) -> pl.LazyFrame:
    """`frame` with categorical ids and all words (events, splits) as strings, Hugging Face's {bytes, path} as bytes,
    and lists of numbers of any type as `VECTOR`.
    """
    schema = frame.collect_schema()
    as_text = [name for name in ids if isinstance(schema.get(name), pl.Categorical | pl.Enum)]
    as_text += [name for name in words if name in schema and not schema[name].is_nested() and schema[name] != pl.String]
    changes = [pl.col(name).cast(pl.String) for name in as_text]
    for name in pictures:
        dtype = schema.get(name)
        if isinstance(dtype, pl.Struct) and "bytes" in [field.name for field in dtype.fields]:
            changes.append(pl.col(name).struct.field("bytes").alias(name))
    changes += [pl.col(name).cast(VECTOR) for name in vectors if holds_vectors(schema.get(name))]
    return frame.with_columns(changes)
