"""A run's folder -> one self-contained HTML page, and its measures as a table for the terminal.

Every section is optional: a file that is absent leaves its section out, a file that is broken is refused by name and
line. User ids, profiles and query texts stay out of the page unless they are asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from recsys.errors import InputError
from recsys.reports.ablation import read_ablation
from recsys.reports.cascade import count, describe_set, milliseconds, read_cascade
from recsys.reports.fairness import read_fairness
from recsys.reports.figures import (
    MAIN_METRICS,
    WIDTH,
    Bars,
    draw_bars,
    draw_training,
    duration,
    is_finite,
    metric_label,
    number,
    thumbnail,
)
from recsys.reports.files import open_template, read_json, read_lines, read_text, replace_file
from recsys.reports.pruning import pruning_section
from recsys.reports.reasons import Reasons, Told, read_reasons
from recsys.reports.tradeoff import draw_panels, read_tradeoff

FILES = (
    "config.yaml",
    "versions.json",
    "metrics.jsonl",
    "results.json",
    "pruning.json",
    "samples.json",
    "dropped/*.parquet",
)
BASELINES = ("popularity", "markov", "bm25", "ease", "random")
VERDICT_METRICS = ("ndcg@10", "recall@10", "mrr")
LOW_IS_GOOD = ("gini", "ece", "log_loss")  # starts of the names of measures
SEGMENT_METRIC = "recall@10"
SEGMENTS = ("head", "torso", "tail", "unseen")
HISTORY_SHOWN, CANDIDATES_SHOWN = 24, 60  # entries of a strip; the page says how many more there are


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the cascade, or a baseline, and what was measured of it."""

    name: str
    metrics: Mapping[str, float]
    seconds: float | None

    @property
    def is_baseline(self) -> bool:
        """Whether it learns nothing beyond counts."""
        return self.name.lower().partition(", ")[0] in BASELINES

    @property
    def group(self) -> str:
        """The set of requests that it was measured on: what stands behind the comma of its name, else valid."""
        return self.name.partition(", ")[2] or "valid"

    @property
    def is_oracle(self) -> bool:
        """Whether it knows how the data was made: a bound that no stage is compared with as if it were a model."""
        return self.name.startswith("oracle")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An item as a card shows it."""

    title: str
    detail: str
    image: str | None
    """A data URI; None: the page shows the title's first letter."""
    is_target: bool
    score: float | None
    retriever_score: float | None
    pruner_score: float | None
    place: int
    """1-based place among the candidates; 0: it was not one of them."""
    bar: float = 0.0
    """Length of the score's bar in percent of the longest in the list."""
    is_tail: bool = False
    """Whether it is of the rarely taken items that hold a fifth of the interactions, or has none."""
    told: Told | None = None
    """Why it is recommended, where the run was explained."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A sampled user: what was known, what was found, what was kept."""

    name: str
    about: Sequence[str]
    history: Sequence[Shown]
    target: Shown | None
    candidates: Sequence[Shown]
    recommendations: Sequence[Shown]
    candidates_in_all: int
    history_in_all: int

    @property
    def target_rank(self) -> int:
        """1-based rank of the target in the final list, 0 where it is not there."""
        return next((rank for rank, item in enumerate(self.recommendations, 1) if item.is_target), 0)


def write_page(run: Path, *, show_ids: bool = False) -> Path:
    """Write `run`/report.html from whatever the run's folder holds, and return its path.

    An older page is replaced in one step, so that no half-written page is ever seen. `show_ids` prints user ids,
    profiles and query texts. Image paths are absolute, or below the run or the working folder; an image that cannot
    be read leaves a letter in its place. Raises InputError where the folder is missing, holds none of `FILES` or holds
    a broken one, and where the extra `reports` is not installed.
    """
    if not run.is_dir():
        raise InputError(f"There is no run folder {str(run)!r}; give the folder that a run wrote, such as runs/NAME.")
    sections = _read_sections(run, show_ids)
    if not any(sections.values()):
        raise InputError(f"Folder {str(run)!r} holds nothing to report; expected at least one of {', '.join(FILES)}.")
    page = run / "report.html"
    template = open_template("template.html", set=describe_set, candidates=count, milliseconds=milliseconds)
    replace_file(page, template.render(run=run.resolve().name, show_ids=show_ids, segments=SEGMENTS, **sections))
    return page


def print_results(results: Mapping[str, Any]) -> str:
    """The stages and their main measures as aligned text; `results` is what results.json holds.

    `*` marks the best of each column. Raises InputError where the stages are not a list of names and metrics.
    """
    stages = _stages(results, "results")
    names = [name for name in _metric_names(stages) if name in MAIN_METRICS]
    best = {name: _best(stages, name) for name in names}
    rows = [["stage", *map(metric_label, names), "time"]]
    for stage in stages:
        cells = [number(stage.metrics.get(name)) + ("*" if stage.name in best[name] else " ") for name in names]
        rows.append([stage.name, *cells, duration(stage.seconds)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def verdict(stages: Sequence[Stage]) -> str:
    """One sentence: the best stage, by how much, over which baseline. Empty where no stage has one of the measures.

    Of the stages on the set of requests that the first is of: figures of other requests cannot be compared.
    """
    stages = [stage for stage in stages if stage.group == stages[0].group and not stage.is_oracle]
    metric = next((name for name in VERDICT_METRICS if any(name in stage.metrics for stage in stages)), None)
    if metric is None:
        return ""
    measured = [stage for stage in stages if metric in stage.metrics]
    ranked = sorted(measured, key=lambda stage: (-stage.metrics[metric], not stage.is_baseline))  # a tie is no win
    best, value = ranked[0], ranked[0].metrics[metric]
    lead = f"{best.name[:1].upper()}{best.name[1:]} is best with {metric_label(metric)} {number(value)}"
    baseline = next((stage for stage in ranked if stage.is_baseline), None)
    model = next((stage for stage in ranked if not stage.is_baseline), None)
    if baseline is None or model is None:
        return f"{lead}."
    if best.is_baseline:
        return f"{lead}: no model beats this baseline. The next is {model.name} ({number(model.metrics[metric])})."
    base = baseline.metrics[metric]
    return f"{lead}, {_gain(value, base)} the best baseline, {baseline.name} ({number(base)})."


def _read_sections(run: Path, show_ids: bool) -> dict[str, Any]:
    """What the template shows, by name; None or empty where the file is absent."""
    config = run / "config.yaml"
    return {
        "config": read_text(config) if config.is_file() else None,
        "versions": read_json(run / "versions.json"),
        "training": draw_training(read_lines(run / "metrics.jsonl")),
        "results": _results(run / "results.json"),
        "cascade": read_cascade(read_json(run / "results.json") or {}, str(run / "results.json")),
        "fairness": read_fairness(read_json(run / "results.json") or {}, str(run / "results.json")),
        "ablation": read_ablation(read_json(run / "ablation.json"), str(run / "ablation.json")),
        "tradeoff": _tradeoff(run / "tradeoff.json"),
        "pruning": pruning_section(read_json(run / "pruning.json"), str(run / "pruning.json")),
        "cards": _cards(run / "samples.json", show_ids),
        "dropped": _count_dropped(run / "dropped"),
    }


def _tradeoff(path: Path) -> dict[str, Any] | None:
    prices = read_tradeoff(read_json(path), str(path))
    return None if prices is None else {"prices": prices, "figures": draw_panels(prices)}


def _count_dropped(folder: Path) -> dict[str, int]:
    """Rows of each file in `folder`, by the file's name."""
    counts = {}
    for path in sorted(folder.glob("*.parquet")):
        try:
            counts[path.stem] = pl.scan_parquet(path).select(pl.len()).collect().item()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"{path} cannot be read as Parquet ({error}); take it away and run again.") from error
    return counts


# ---- results ----


def _results(path: Path) -> dict[str, Any] | None:
    raw = read_json(path)
    if raw is None:
        return None
    stages = _stages(raw, str(path))
    names = _metric_names(stages)
    return {
        "stages": stages,
        "verdict": verdict(stages),
        "names": names,
        "best": {name: _best(stages, name) for name in names},
        "queries": _number_or_none(raw.get("queries")),
        "segments": _segments(stages),
        "latency": _latency(raw.get("latency_ms") or {}, str(path)),
    }


def _stages(results: Mapping[str, Any], where: str) -> list[Stage]:
    stages = []
    for at, entry in enumerate(_entries(results, "stages", where)):
        metrics = entry.get("metrics")
        if not isinstance(metrics, dict) or not isinstance(entry.get("name"), str):
            raise InputError(f"{where}: stages[{at}] is {entry!r}; expected a name and an object of metrics.")
        finite = {name: value for name, value in metrics.items() if is_finite(value)}
        stages.append(Stage(name=entry["name"], metrics=finite, seconds=_number_or_none(entry.get("seconds"))))
    return stages


def _entries(parent: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    found = parent.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        kind = type(found).__name__  # not the value: it may hold user ids
        raise InputError(f"{where}: found {key!r} of type {kind}; expected a list of objects.")
    return found


def _latency(raw: Any, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(raw, dict) or not all(isinstance(value, dict) for value in raw.values()):
        raise InputError(f"{where}: latency_ms is {str(raw)[:60]!r}; expected {{name: {{p50: ..., p99: ...}}}}.")
    return raw


def _metric_names(stages: Sequence[Stage]) -> list[str]:
    """Columns of the table: the main measures in their order, then any others; those of a segment are left out."""
    found = list(dict.fromkeys(name for stage in stages for name in stage.metrics if "/" not in name))
    return [name for name in MAIN_METRICS if name in found] + [name for name in found if name not in MAIN_METRICS]


def _best(stages: Sequence[Stage], metric: str) -> frozenset[str]:
    """Names of the stages that are best (Gini, ECE: lowest), no oracle; none where there is nothing to choose."""
    values = {stage.name: stage.metrics[metric] for stage in stages if metric in stage.metrics and not stage.is_oracle}
    if len(set(values.values())) < 2:
        return frozenset()
    best = min(values.values()) if metric.startswith(LOW_IS_GOOD) else max(values.values())
    return frozenset(name for name, value in values.items() if value == best)


def _segments(stages: Sequence[Stage]) -> str | None:
    """Bars of the segment measure for each stage, as SVG."""
    series = []
    for stage in stages:
        found = {segment: f"{SEGMENT_METRIC}/{segment}" for segment in SEGMENTS}
        values = {segment: stage.metrics[key] for segment, key in found.items() if key in stage.metrics}
        series.append(Bars(name=stage.name, values=values, quiet=stage.is_baseline or stage.is_oracle))
    groups = [segment for segment in SEGMENTS if any(segment in bars.values for bars in series)]
    title = f"{metric_label(SEGMENT_METRIC)} by popularity of the target"
    return draw_bars(series, groups, title=title, size=(WIDTH, 300)) if groups else None


def _gain(value: float, base: float) -> str:
    if base <= 0:
        return f"{number(value - base)} above"
    percent = 100 * (value / base - 1)
    return f"{percent:.0f} % above" if percent >= 1 else f"{percent:.1f} % above"


# ---- sampled users ----


def _cards(path: Path, show_ids: bool) -> list[Card]:
    raw = read_json(path)
    if raw is None:
        return []
    seen: dict[str, str | None] = {}  # the same product is in a history, among candidates and in a list

    def picture(image: str) -> str | None:
        if image not in seen:
            inside = path.parent / image  # an absolute path stays as it is
            seen[image] = thumbnail(inside if inside.is_file() else Path(image))
        return seen[image]

    users, reasons = _entries(raw, "users", str(path)), read_reasons(path.parent / "reasons.json", show_ids=show_ids)
    cards = [_card(user, at, f"{path}: users[{at}]", picture, show_ids) for at, user in enumerate(users)]
    return [_with_reasons(card, user, reasons) for card, user in zip(cards, users, strict=True)]


def _with_reasons(card: Card, user: Mapping[str, Any], reasons: Reasons) -> Card:
    items = zip(card.recommendations, user.get("recommendations") or [], strict=True)
    told = [replace(one, told=reasons.get((str(user.get("id")), str(raw["item_id"])))) for one, raw in items]
    return replace(card, recommendations=told)


def _card(user: dict[str, Any], at: int, where: str, picture: Callable[[str], str | None], show_ids: bool) -> Card:
    def entries(key: str) -> list[dict[str, Any]]:
        return _entries(user, key, where) if user.get(key) is not None else []

    def show(key: str) -> list[Shown]:
        return [_shown(entry, f"{where}.{key}[{i}]", picture, places) for i, entry in enumerate(entries(key))]

    places = {str(entry.get("item_id")): place for place, entry in enumerate(entries("candidates"), 1)}
    target = user.get("target")
    history, candidates = show("history"), show("candidates")
    return Card(
        name=f"User {user['id']}" if show_ids and user.get("id") is not None else f"Sampled user {at + 1}",
        about=_about(user) if show_ids else (),
        history=history[::-1][:HISTORY_SHOWN],  # the file has the oldest first
        history_in_all=len(history),
        target=_shown(target, f"{where}.target", picture, places) if target else None,
        candidates=_with_bars(candidates, lambda item: item.retriever_score)[:CANDIDATES_SHOWN],
        candidates_in_all=len(candidates),
        recommendations=_with_bars(show("recommendations"), lambda item: item.score),
    )


def _about(user: Mapping[str, Any]) -> list[str]:
    """What `show_ids` adds: the query and the profile, in words."""
    query = [f"searched for “{user['query']}”"] if user.get("query") else []
    profile = user.get("profile")
    return query + ([f"{key}: {value}" for key, value in profile.items()] if isinstance(profile, dict) else [])


def _shown(entry: Any, where: str, picture: Callable[[str], str | None], places: Mapping[str, int]) -> Shown:
    if not isinstance(entry, dict) or "item_id" not in entry:
        raise InputError(f"{where} is no object with an item_id; expected {{item_id, title, image, detail, ...}}.")
    scores = {name: _number_or_none(entry.get(name)) for name in ("score", "retriever_score", "pruner_score")}
    return Shown(
        title=str(entry.get("title") or entry["item_id"]),
        detail=str(entry.get("detail") or ""),
        image=picture(str(entry["image"])) if entry.get("image") else None,
        is_target=bool(entry.get("is_target")),
        is_tail=bool(entry.get("is_tail")),
        place=places.get(str(entry["item_id"]), 0),
        score=scores["score"],
        retriever_score=scores["retriever_score"],
        pruner_score=scores["pruner_score"],
    )


def _number_or_none(value: Any) -> float | None:
    return value if is_finite(value) else None


def _with_bars(items: Sequence[Shown], score: Callable[[Shown], float | None]) -> list[Shown]:
    """The same items with the lengths of their bars: from zero, or from the lowest score where that is negative."""
    scores = [score(item) for item in items]
    known = [value for value in scores if value is not None]
    low = min([0.0, *known])
    spread = (max(known, default=0.0) - low) or 1.0
    lengths = [0.0 if value is None else 100 * (value - low) / spread for value in scores]
    return [replace(item, bar=round(length, 1)) for item, length in zip(items, lengths, strict=True)]
