"""What diversity costs: of tradeoff.json, as a table for the terminal, curves on the page and one PNG."""

from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from recsys.errors import InputError
from recsys.metrics.bootstrap import Interval
from recsys.reports.figures import INK, LOUD, MUTED, QUIET, WIDTH, add_legend, open_panels, to_png, to_svg

if TYPE_CHECKING:
    from recsys.reports.figures import Axes

MODELS = "models"
"""The way of the models' own lists."""
PANELS = {
    "non_head@10": "Share of items beyond the head",
    "tail@10": "Share of tail and unseen items",
    "coverage@10": "Coverage",
    "gini@10": "Gini (lower is more even)",
    "novelty@10": "Novelty, bits",
    "distance@10": "Distance within a list",
    "divergence@10": "Divergence from the own mix (lower is nearer)",
}
"""What the loss is drawn against."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """A setting and its measures."""

    way: str
    strength: float
    measures: dict[str, Interval]
    marked: bool

    @property
    def name(self) -> str:
        """As the table has it."""
        return self.way if self.way == MODELS else f"{self.way} {self.strength:g}"

    def times(self, base: "Price", name: str) -> float | None:
        """How many times as much as the models' own lists have."""
        below = base.measures[name].mean
        return self.measures[name].mean / below if below else None


@dataclass(frozen=True, kw_only=True)
class Prices:
    """All settings on one set of requests."""

    group: str
    requests: int
    candidates: int
    wanted: dict[str, float]
    points: list[Price]

    @property
    def names(self) -> list[str]:
        """Measures that were taken."""
        return [name for name in PANELS if name in self.points[0].measures]

    @property
    def marked(self) -> Price | None:
        """The setting that has what was wanted at the least loss."""
        return next((point for point in self.points if point.marked), None)

    @property
    def verdict(self) -> str:
        """One sentence on what was wanted; empty where nothing was."""
        if not self.wanted:
            return ""
        asked = " and ".join(f"{name} of at least {least:g}" for name, least in self.wanted.items())
        if self.marked is None:
            return f"No setting has {asked}: raise candidates, or ask for less."
        loss = self.marked.measures["loss"]
        ends = f"95 %: {100 * loss.low:.1f} to {100 * loss.high:.1f}"
        return f"{self.marked.name} has {asked} at the least loss: {100 * loss.mean:.1f} % of nDCG@10 ({ends})."


def read_tradeoff(raw: Any, where: str) -> Prices | None:
    """What tradeoff.json holds; None where it is absent. Raises InputError where a point lacks a figure."""
    if raw is None:
        return None
    try:
        points = [
            Price(
                way=str(point["way"]), strength=float(point["strength"]), marked=number == raw["marked"],
                measures={name: Interval(**value) for name, value in point["measures"].items()},
            )
            for number, point in enumerate(raw["points"])
        ]  # fmt: skip
        return Prices(
            group=str(raw["group"]), requests=int(raw["requests"]), candidates=int(raw["candidates"]),
            wanted={str(name): float(least) for name, least in raw["wanted"].items()}, points=points,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: a point lacks a figure ({error}); run recsys tradeoff again.") from error


def print_tradeoff(prices: Prices) -> str:
    """As a table: of shares also how many times the models' own; the setting that is marked has a star."""
    head = f"{prices.group}, {prices.requests:,} requests, lists of 10 from {prices.candidates} candidates"
    table = Table(title=head, title_justify="left", box=None, header_style="", pad_edge=False)
    table.add_column("setting")
    for name in ("nDCG@10", "loss %", "95 %", *(one.removesuffix("@10") for one in prices.names)):
        table.add_column(name, justify="right", no_wrap=True)
    for point in prices.points:
        table.add_row(*_cells(point, prices.points[0], prices.names))
    out = StringIO()
    Console(file=out, width=200, color_system=None).print(table)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join([*lines, *([prices.verdict] if prices.verdict else [])])


def _cells(point: Price, base: Price, names: list[str]) -> list[str]:
    loss = point.measures["loss"]
    cells = [f"{'* ' if point.marked else ''}{point.name}", f"{point.measures['ndcg@10'].mean:.4f}"]
    cells += [f"{100 * loss.mean:.1f}", f"[{100 * loss.low:.1f}, {100 * loss.high:.1f}]"]
    for name in names:
        times = point.times(base, name) if name.startswith(("non_head", "tail", "coverage")) else None
        more = f" x{times:.2f}" if times is not None and point is not base else ""
        cells.append(f"{point.measures[name].mean:.3f}{more}")
    return cells


def draw_panels(prices: Prices) -> dict[str, str]:
    """One SVG for each measure, by its title."""
    found = {}
    for name in prices.names:
        with open_panels((WIDTH, 320), 1) as (figure, (axes,)):
            _panel(axes, prices, name)
            add_legend(axes, len(_ways(prices)))
            found[PANELS[name]] = to_svg(figure, f"nDCG@10 against: {PANELS[name]}")
    return found


def draw_png(prices: Prices) -> bytes:
    """All measures on one sheet."""
    rows = -(-len(prices.names) // 3)
    with open_panels((1200, 330 * rows), len(prices.names)) as (figure, panels):
        for axes, name in zip(panels, prices.names, strict=True):
            _panel(axes, prices, name)
        add_legend(panels[0], len(_ways(prices)))
        return to_png(figure)


def _ways(prices: Prices) -> list[str]:
    return list(dict.fromkeys(point.way for point in prices.points if point.way != MODELS))


def _panel(axes: "Axes", prices: Prices, name: str) -> None:
    """nDCG@10 over one measure: a line for each way from the models' own lists on, with the ends of the intervals:
    across of the measure, up of what is lost.
    """
    base = prices.points[0]
    whole = base.measures["ndcg@10"].mean
    for way, colour in zip(_ways(prices), (*LOUD, *QUIET), strict=False):
        points = [base, *(point for point in prices.points if point.way == way)]
        across, lost = ([point.measures[one] for point in points] for one in (name, "loss"))
        up = [whole * (1 - one.mean) for one in lost]
        axes.plot([one.mean for one in across], up, "o-", color=colour, label=way, markersize=3.5)
        for x, y, loss in zip(across[1:], up[1:], lost[1:], strict=True):
            axes.plot([x.mean] * 2, [whole * (1 - loss.high), whole * (1 - loss.low)], color=colour, linewidth=0.7)
            axes.plot([x.low, x.high], [y, y], color=colour, linewidth=0.7)
    axes.plot(base.measures[name].mean, whole, "o", color=INK, markersize=6)
    if prices.marked is not None:
        place = prices.marked.measures[name].mean, prices.marked.measures["ndcg@10"].mean
        axes.plot(*place, "o", color=INK, markersize=11, markerfacecolor="none", markeredgewidth=1.5)
    axes.set_xlabel(PANELS[name], color=MUTED)
    axes.set_ylabel("nDCG@10", color=MUTED)
