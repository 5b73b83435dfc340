"""Two to five runs, request by request: is B better than A, where, and how sure is that?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from recsys.errors import InputError, nearest
from recsys.metrics.bootstrap import Interval, paired_bootstrap
from recsys.reports.cascade import describe_set
from recsys.reports.figures import metric_label, number
from recsys.reports.files import read_json
from recsys.reports.page import BASELINES, SEGMENTS

FILE = "requests.parquet"
METRICS = ("ndcg@10", "recall@10", "mrr")
"""What is compared; the first decides."""
LETTERS = "ABCDE"
RESAMPLES = 2000
LEAST = 10
"""Requests below which no interval is told: so few, drawn again and again, look surer than they are."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run and the values of its requests."""

    letter: str
    folder: Path
    rows: pl.DataFrame

    @property
    def sets(self) -> list[str]:
        """Sets of requests that were measured, in their order."""
        return self.rows["set"].unique(maintain_order=True).to_list()

    def stages(self, group: str) -> list[str]:
        """Stages that were measured on a set, in their order."""
        return self.rows.filter(pl.col("set") == group)["stage"].unique(maintain_order=True).to_list()

    def values(self, group: str, stage: str) -> pl.DataFrame:
        """One row for each request of a set, in the order of their numbers."""
        return self.rows.filter((pl.col("set") == group) & (pl.col("stage") == stage)).sort("request")

    def best_stage(self, group: str) -> str:
        """The stage with the highest mean of the first metric, the later of equals; baselines only without others."""
        stages = self.stages(group)
        models = [stage for stage in stages if stage.lower() not in BASELINES] or stages
        return max(reversed(models), key=lambda stage: float(self.values(group, stage)[METRICS[0]].to_numpy().mean()))

    @property
    def data(self) -> str | None:
        """Hash of the data set, where the run kept it."""
        return (read_json(self.folder / "versions.json") or {}).get("data")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A measure of both runs and the interval of the difference."""

    label: str
    requests: int
    first: float
    second: float
    interval: Interval
    segment: bool = False


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A run against the first one, on one set of requests."""

    group: str
    first: Run
    second: Run
    stages: tuple[str, str]
    requests: int
    lines: Sequence[Line]
    """The measures of all requests, then the first measure of each segment."""
    better: int
    """Requests on which the second run has more of the first measure."""
    worse: int
    share: dict[str, float]
    """Of the whole difference, by segment."""

    @property
    def sign(self) -> int:
        """1: the second run is better, -1: it is worse, 0: these requests cannot tell."""
        return self.lines[0].interval.sign

    @property
    def verdict(self) -> str:
        """One sentence: which run is better, by how much, how sure, and where."""
        first, second, line = self.first.letter, self.second.letter, self.lines[0]
        figures = f"{line.label} {difference(line.interval)}"
        if not self.sign:
            requests = f"{self.requests:,} request{'s' * (self.requests != 1)}"
            return f"No difference between {second} and {first} that {requests} can show: {figures}."
        return f"{second} is {'better' if self.sign > 0 else 'worse'} than {first}: {figures}{self._where()}."

    def _where(self) -> str:
        """The segment that most of the difference comes from, where its own interval agrees."""
        agreed = {line.label for line in self.lines if line.segment and line.interval.sign == self.sign}
        most = [name for name, share in self.share.items() if share > 0.5 and name in agreed]
        return f"; most of it on {most[0]}" if most else ""


def signed(value: float) -> str:
    """A difference with its sign and without the leading zero: +.036; 0 where all three decimals are zero."""
    if not math.isfinite(value):
        return "-"
    text = f"{value:+.3f}".replace("0.", ".", 1)
    return "0" if text.strip("+-.0") == "" else text


def difference(interval: Interval) -> str:
    """+.036 [+.012, +.061]; the mean alone where there is no interval."""
    if not math.isfinite(interval.low):
        return signed(interval.mean)
    return f"{signed(interval.mean)} [{signed(interval.low)}, {signed(interval.high)}]"


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Two to five runs, the first of which the others are compared with."""
    if not 2 <= len(folders) <= len(LETTERS):
        raise InputError(f"Runs to compare: found {len(folders)}, expected 2 to {len(LETTERS)}: recsys compare RUN RUN")
    return [_read_run(letter, folder) for letter, folder in zip(LETTERS, folders, strict=False)]


def _read_run(letter: str, folder: Path) -> Run:
    if not folder.is_dir():
        raise InputError(f"There is no run folder {str(folder)!r}; give one that a run wrote, such as runs/NAME.")
    path = folder / FILE
    if not path.is_file():
        remedy = "train it again, or run infer again with data.history.until naming a split"
        raise InputError(f"{folder} has no {FILE}, the values of each request that was measured; {remedy}.")
    try:
        rows = pl.read_parquet(path).select("stage", "set", "request", "target", "segment", *METRICS)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read ({reason}); remove it and run the stage again.") from error
    return Run(letter=letter, folder=folder, rows=rows)


def compare_runs(runs: Sequence[Run], stage: str | None = None) -> list[Pair]:
    """Each run but the first against it, on every set that all were measured on: by `stage`, or each by its best."""
    first, *others = runs
    common = [group for group in first.sets if all(group in run.sets for run in others)]
    if not common:
        found = "; ".join(f"{run.letter} has {', '.join(run.sets)}" for run in runs)
        raise InputError(f"No set of requests was measured in every run: {found}. Measure them on the same split.")
    wanted = [group for group in common if stage is None or all(stage in run.stages(group) for run in runs)]
    if not wanted:
        known = list(dict.fromkeys(name for run in runs for group in common for name in run.stages(group)))
        hint = nearest(str(stage), known)
        raise InputError(f"Not every run has the stage {stage!r}.{hint} Found in some: {', '.join(known)}.")
    return [_compare(first, run, group, stage) for group in wanted for run in others]


def _compare(first: Run, second: Run, group: str, stage: str | None) -> Pair:
    stages = stage or first.best_stage(group), stage or second.best_stage(group)
    one, other = first.values(group, stages[0]), second.values(group, stages[1])
    _check_same(first, second, group, one, other)
    delta = (other[METRICS[0]] - one[METRICS[0]]).to_numpy()
    named = {name: (one["segment"] == name).to_numpy() for name in SEGMENTS}
    everyone, total = np.ones(len(one), dtype=bool), float(delta.sum())
    lines = [_line(metric_label(metric), one[metric], other[metric], everyone) for metric in METRICS]
    of_segment = partial(_line, one=one[METRICS[0]], other=other[METRICS[0]], segment=True)
    lines += [of_segment(name, rows=rows) for name, rows in named.items() if rows.any()]
    return Pair(
        group=group, first=first, second=second, stages=stages, requests=len(one), lines=lines,
        better=int((delta > 0).sum()), worse=int((delta < 0).sum()),
        share={name: float(delta[rows].sum()) / total for name, rows in named.items() if total},
    )  # fmt: skip


def _line(label: str, one: pl.Series, other: pl.Series, rows: np.ndarray, *, segment: bool = False) -> Line:
    first, second = one.to_numpy()[rows], other.to_numpy()[rows]
    interval = paired_bootstrap(second - first, resamples=RESAMPLES)
    if len(first) < LEAST:
        interval = replace(interval, low=math.nan, high=math.nan)
    values = {"first": float(first.mean()), "second": float(second.mean())}
    return Line(label=label, requests=len(first), interval=interval, segment=segment, **values)


def _check_same(first: Run, second: Run, group: str, one: pl.DataFrame, other: pl.DataFrame) -> None:
    """The requests of both runs must be the same ones; columns and models may differ."""
    if len(one) == len(other) and one.select("request", "target").equals(other.select("request", "target")):
        return
    where = f"{first.folder} ({first.letter}) and {second.folder} ({second.letter})"
    if first.data and second.data and first.data != second.data:
        hashes = f"{first.data[:12]} and {second.data[:12]}"
        raise InputError(f"{where} were measured on other data ({hashes}); compare runs over the same tables.")
    if len(one) != len(other):
        remedy = "measure both on the same users or queries"
        raise InputError(f"The set {group} has {len(one):,} and {len(other):,} requests in {where}; {remedy}.")
    raise InputError(f"The requests of the set {group} are not the same in {where}; compare runs over the same data.")


def print_comparison(pairs: Sequence[Pair]) -> str:
    """Who is who, then a table and a verdict for each pair."""
    runs = {run.letter: run for pair in pairs for run in (pair.first, pair.second)}
    return "\n\n".join(["\n".join(f"{name}  {run.folder}" for name, run in runs.items()), *map(_table, pairs)])


def _table(pair: Pair) -> str:
    first, second = pair.first.letter, pair.second.letter
    rows = [("", "requests", first, second, "difference", "95 % interval"), *map(_cells, pair.lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    head = f"{describe_set(pair.group)}: {first} by its {pair.stages[0]}, {second} by its {pair.stages[1]}"
    rule, equal = "-" * max(map(len, lines)), pair.requests - pair.better - pair.worse
    count = f"{second} is better on {pair.better:,} requests, {first} on {pair.worse:,}; equal on {equal:,}."
    return "\n".join([head, rule, *lines, rule, count, pair.verdict])


def _cells(line: Line) -> tuple[str, ...]:
    label = f"  nDCG@10 on {line.label}" if line.segment else line.label
    interval = difference(line.interval).removeprefix(signed(line.interval.mean)).strip() or "-"
    return label, f"{line.requests:,}", number(line.first), number(line.second), signed(line.interval.mean), interval
