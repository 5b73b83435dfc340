"""What turns values into numbers: learnt from the training tables, kept with the model, applied to any tables."""

import json
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.ready import fit_widths
from recsys.errors import InputError
from recsys.shards import write_atomic
from recsys.tables import DataConfig, Tables


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The known values of every column.

    Code 0 is missing or unknown; value n of a list has code n + 1. Numbers are scaled to (x - median) / iqr.
    """

    item_ids: list[int] | list[str] = field(default_factory=list)
    item_category: dict[str, list[str]] = field(default_factory=dict)
    item_number: dict[str, list[float]] = field(default_factory=dict)
    item_vectors: dict[str, int] = field(default_factory=dict)
    """Widths of the columns of ready-made vectors."""
    user_category: dict[str, list[str]] = field(default_factory=dict)
    user_number: dict[str, list[float]] = field(default_factory=dict)
    user_bands: dict[str, list[float]] = field(default_factory=dict)
    """Where the numbers of a user's category column are cut into ranges: its values are the names of these."""
    context: dict[str, list[str]] = field(default_factory=dict)
    cycles: dict[str, float] = field(default_factory=dict)
    """Periods of the context columns whose values go round."""
    event: list[str] = field(default_factory=list)
    notes: dict[str, list[float]] = field(default_factory=dict)
    """Of reviews: the unit of their ages, and of the rating median and interquartile range; of ads: the unit, and the
    mean click rate.
    """

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_atomic(path, json.dumps(asdict(self), ensure_ascii=False))

    @classmethod
    def load(cls, path: Path) -> "Codes":
        """Read what `save` wrote. Raises InputError if the file is missing or is something else."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path} is not a readable codes file ({error}); export the model again.") from error


def fit_codes(tables: Tables, config: DataConfig) -> Codes:
    """Learn the codes from the training tables."""
    items, users, roles = config.items, config.users, config.interactions
    missing = [name for name in [*users.category, *users.number] if name not in tables.users.columns]
    if missing:
        raise InputError(
            f"data.users names {', '.join(missing)}, and there is no users table; add users.parquet or users.csv to "
            f"{config.root!r}, or name no columns."
        )
    moment = {
        name: _words(tables.interactions, name) for name in [*roles.context, *([roles.event] if roles.event else [])]
    }
    for name in roles.cycles:
        words = [word for word in moment[name] if _number(word) is None]
        if words:
            raise InputError(
                f"data.interactions.cycles: {name!r} holds {words[0]!r}, which is no number; leave it out."
            )
    bands = {name: cut_points(tables.users[name], count) for name, count in users.bands.items()}

    def user_values(name: str) -> list[str]:
        return band_names(bands[name]) if name in bands else _values(split_cells(tables.users, name, {}))

    return Codes(
        item_ids=tables.items[items.id].to_list(),
        item_category={name: _values(split_cells(tables.items, name, items.separators)) for name in items.category},
        item_number={name: scale(tables.items[name]) for name in items.number},
        item_vectors=fit_widths(tables.items, items.vectors),
        user_category={name: user_values(name) for name in users.category},
        user_number={name: scale(tables.users[name]) for name in users.number},
        user_bands=bands,
        context={name: moment[name] for name in roles.context},
        cycles=dict(roles.cycles),
        event=moment[roles.event] if roles.event else [],
    )


def turns(codes: Codes) -> list[list[float]]:
    """Of each context column, where each of its values stands in its period, in [0, 1); empty: it does not go round."""
    return [
        [(_number(word) or 0.0) / codes.cycles[name] % 1 for word in words] if name in codes.cycles else []
        for name, words in codes.context.items()
    ]


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def check_columns(codes: Codes, config: DataConfig) -> None:
    """Raise InputError where a config gives the roles that a model learnt to other columns than it learnt from."""
    roles = config.interactions
    sections = {
        "items.category": (config.items.category, codes.item_category),
        "items.number": (config.items.numbers(codes.event), codes.item_number),
        "items.vectors": (config.items.vectors, codes.item_vectors),
        "users.category": (config.users.category, codes.user_category),
        "users.number": (config.users.number, codes.user_number),
        "interactions.context": (roles.context, codes.context),
    }
    for name, (given, known) in sections.items():
        if sorted(given) != sorted(known):
            trained = f"and the model was trained with {list(known)}"
            raise InputError(f"data.{name} is {given}, {trained}; use the data section of its run.")
    if codes.event and roles.event is None:
        raise InputError(
            "data.interactions.event is not set, and the model was trained with events; name their column."
        )


def cut_points(column: pl.Series, count: int) -> list[float]:
    """Where the numbers of a users' column are cut so that about as many lie in each of `count` ranges, fewer ranges
    where many numbers are equal. A range holds its lower end. Raises InputError where they are no numbers.
    """
    if not column.dtype.is_numeric():
        raise InputError(f"data.users.bands: {column.name!r} holds {column.dtype}; expected numbers. Leave it out.")
    known = np.sort(column.cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy())
    places = {float(known[len(known) * number // count]) for number in range(1, count if len(known) else 0)}
    return sorted(place for place in places if place > known[0])


def band_names(points: list[float]) -> list[str]:
    """Of the ranges, the lowest first."""
    if not points:
        return ["any"]
    between = [f"{low:g} to under {high:g}" for low, high in pairwise(points)]
    return [f"under {points[0]:g}", *between, f"from {points[-1]:g}"]


def in_bands(frame: pl.DataFrame, bands: dict[str, list[float]]) -> pl.DataFrame:
    """The same table with names of ranges in place of numbers; null where there is no number."""

    def named(column: pl.Series, points: list[float]) -> pl.Series:
        numbers = column.cast(pl.Float64, strict=False).fill_nan(None)
        names = pl.Series(band_names(points), dtype=pl.String)
        place = np.searchsorted(points, numbers.fill_null(0.0).to_numpy(), side="right")
        nobody = pl.Series([None], dtype=pl.String)
        return names.gather(place).zip_with(numbers.is_not_null(), nobody).alias(column.name)

    return frame.with_columns(named(frame[name], points) for name, points in bands.items() if name in frame.columns)


def _words(rows: pl.LazyFrame | None, column: str) -> list[str]:
    if rows is None:
        return []
    return _values(rows.select(pl.col(column).unique()).collect(engine="streaming")[column])


def _values(column: pl.Series) -> list[str]:
    """The distinct values, sorted; null and "" are missing ones."""
    flat = column.explode() if column.dtype == pl.List else column
    found = flat.cast(pl.String).drop_nulls().unique().sort()
    return found.filter(found != "").to_list()


def scale(column: pl.Series) -> list[float]:
    """Median and interquartile range (1 where the range is zero or nothing is known)."""
    low, mid, high = (column.cast(pl.Float64).quantile(q, "linear") for q in (0.25, 0.5, 0.75))
    if low is None or mid is None or high is None:
        return [0.0, 1.0]
    return [mid, (high - low) or 1.0]


def split_cells(frame: pl.DataFrame, name: str, separators: dict[str, str]) -> pl.Series:
    """A column as a list column of strings: split at its separator, or wrapped as lists of one."""
    column = frame[name]
    if column.dtype == pl.List:
        return column.cast(pl.List(pl.String))
    column = column.cast(pl.String)
    return column.str.split(separators[name]) if name in separators else column.reshape((-1, 1)).arr.to_list()


def category_codes(frame: pl.DataFrame, values: dict[str, list[str]], separators: dict[str, str]) -> np.ndarray:
    """[rows, columns, widest cell] int64 codes of the columns of `values`, those of a cell in its order, zero padded.

    Unknown values are left out. A column that the table does not have is missing in every row.
    """
    columns = [_column_codes(frame, name, known, separators) for name, known in values.items()]
    width = max((int(np.bincount(rows).max()) for rows, _ in columns if len(rows)), default=1)
    out = np.zeros((len(frame), len(columns), width), dtype=np.int64)
    for number, (rows, found) in enumerate(columns):
        out[rows, number, np.arange(len(rows)) - np.searchsorted(rows, rows)] = found
    return out


def _column_codes(
    frame: pl.DataFrame, name: str, known: list[str], separators: dict[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows, ascending, and the codes that stand in them."""
    if name not in frame.columns:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    table = pl.DataFrame({"value": pl.Series(known, dtype=pl.String), "code": np.arange(1, len(known) + 1)})
    cells = pl.DataFrame({"row": np.arange(len(frame)), "value": split_cells(frame, name, separators)}).explode("value")
    coded = cells.join(table, on="value", how="inner", maintain_order="left")
    return coded["row"].to_numpy(), coded["code"].to_numpy()


def scaled_numbers(frame: pl.DataFrame, scale: dict[str, list[float]]) -> np.ndarray:
    """[rows, columns] float32 of the columns of `scale`; NaN is missing, as is a column that is not in the table."""
    out = np.full((len(frame), len(scale)), np.nan, dtype=np.float32)
    for number, (name, (middle, spread)) in enumerate(scale.items()):
        if name in frame.columns:
            out[:, number] = (frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy() - middle) / spread
    return out


def code_of(column: pl.Expr, values: list[str]) -> pl.Expr:
    """The code of each cell of a column, 0 for a missing or unknown value."""
    place = column.cast(pl.String).cast(pl.Enum(values), strict=False)  # streams, as replace_strict does not
    return (place.to_physical().cast(pl.Int32) + 1).fill_null(0)
