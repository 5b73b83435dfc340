"""The page of a comparison: the verdict on top, intervals as a forest plot, settings that differ, learning curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.reports.cascade import describe_set
from recsys.reports.compare import LEAST, RESAMPLES, Pair, Run, difference, signed
from recsys.reports.differences import Difference, find_differences, trainings
from recsys.reports.figures import WIDTH, Curve, draw_curves, read_curve
from recsys.reports.files import open_template, read_lines, replace_file

CURVES = {"valid/ndcg@10": "nDCG@10 of users, valid", "valid_query/ndcg@10": "nDCG@10 of searches, valid",
          "train/loss": "training loss"}  # fmt: skip
TICKS = 5  # at most about so many on the axis of a forest plot


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The axis of a forest plot, the same for all rows."""

    low: float
    high: float
    step: float

    @classmethod
    def over(cls, pairs: Sequence[Pair]) -> "Scale":
        """Wide enough for every interval and for zero."""
        found = [line.interval for pair in pairs for line in pair.lines]
        ends = [end for one in found for end in (0.0, one.mean, one.low, one.high) if math.isfinite(end)]
        low, high = min(ends), max(ends)
        room = 0.06 * (high - low) or 0.01
        rough = (high - low + 2 * room) / TICKS
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        return cls(low=low - room, high=high + room, step=step)

    def place(self, value: float) -> float:
        """Where a value stands, in percent of the width."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    @property
    def ticks(self) -> list[float]:
        """Round values on the axis."""
        numbers = range(math.ceil(self.low / self.step), math.floor(self.high / self.step) + 1)
        return [one * self.step for one in numbers]


@dataclass(frozen=True, kw_only=True)
class Section:
    """All pairs on one set of requests."""

    group: str
    pairs: Sequence[Pair]
    scale: Scale


def write_comparison(pairs: Sequence[Pair], output: Path | None = None) -> Path:
    """Write the page to `output`, else to compare.html in the last run's folder; returns its path."""
    runs = list({run.letter: run for pair in pairs for run in (pair.first, pair.second)}.values())
    page = output or runs[-1].folder / "compare.html"
    template = open_template("compare.html", set=describe_set, signed=signed, difference=difference)
    sections = [_section(group, pairs) for group in dict.fromkeys(pair.group for pair in pairs)]
    shown = {"names": _names(runs), "sections": sections, "resamples": RESAMPLES, "least": LEAST}
    text = template.render(**shown, differences=_differences(runs), curves=_curves(runs))
    replace_file(page, text)
    return page


def _section(group: str, pairs: Sequence[Pair]) -> Section:
    mine = [pair for pair in pairs if pair.group == group]
    return Section(group=group, pairs=mine, scale=Scale.over(mine))


def _names(runs: Sequence[Run]) -> dict[str, str]:
    """A run's name by its letter: its folder's own, or the whole path where two are called the same."""
    short = [run.folder.resolve().name for run in runs]
    names = short if len(set(short)) == len(runs) else [str(run.folder) for run in runs]
    return {run.letter: name for run, name in zip(runs, names, strict=True)}


def _differences(runs: Sequence[Run]) -> list[Difference]:
    found = find_differences([run.folder for run in runs])
    hashes = [run.data[:12] if run.data else "-" for run in runs]
    if "-" not in hashes and len(set(hashes)) > 1:
        found.append(Difference(key="hash of tables and roles", tasks=["data"], values=hashes))
    return found


def _curves(runs: Sequence[Run]) -> dict[str, str]:
    """Figures by caption: a measure of all runs on one plot, for each task that two of them have trained."""
    found: dict[tuple[str, str], list[Curve]] = {}
    for run in runs:
        for task, folder in trainings(run.folder).items():
            lines = read_lines(folder / "metrics.jsonl")
            for key in CURVES:
                curve = read_curve(lines, key)
                if curve.steps:
                    one = Curve(name=run.letter, steps=curve.steps, values=curve.values)
                    found.setdefault((task, key), []).append(one)
    titles = {pair: f"{pair[0].capitalize()}: {CURVES[pair[1]]}" for pair in found}
    return {
        titles[pair]: draw_curves(curves, title=f"{titles[pair]} by step", size=(WIDTH, 250))
        for pair, curves in sorted(found.items(), key=_order)
        if len(curves) > 1
    }


def _order(entry: tuple[tuple[str, str], list[Curve]]) -> tuple[bool, int]:
    """The retriever's figures first, each task's as `CURVES` has them."""
    task, key = entry[0]
    return task != "retriever", list(CURVES).index(key)
