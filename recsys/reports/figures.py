"""Curves, bars and thumbnails, as text that stands inside an HTML page. The only file that imports matplotlib.

Unusual here: figures are drawn in stand-in colours that become CSS variables, so that one SVG serves the light and the
dark page. Text stays text, in the page's own font.
"""

import base64
import html
import io
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#000001", "#000002", "#000003"
LOUD = ("#0000a1", "#0000a2", "#0000a3", "#0000a4", "#0000a5", "#0000a6")
QUIET = ("#0000b1", "#0000b2", "#0000b3")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"}
VARIABLES |= {colour: f"loud-{i}" for i, colour in enumerate(LOUD, 1)}
VARIABLES |= {colour: f"quiet-{i}" for i, colour in enumerate(QUIET, 1)}

PAPER = dict(zip(VARIABLES, (
    "#18202b", "#56616f", "#dfe3e9", "#2b74c0", "#d4691a", "#7a4fb5", "#5f8a1c", "#b03a63", "#16807a",
    "#8b95a3", "#596574", "#b0a38f",
), strict=True))  # fmt: skip
"""What the variables are on the light page (template.html), for a figure that stands alone."""

UNITS_PER_INCH = 72  # matplotlib's SVG units
WIDTH = 490  # of a figure in CSS pixels: about what it gets on the page, so that 12 units of text are 12 pixels
MAIN_METRICS = (
    "ndcg@10", "recall@10", "recall@100", "mrr", "coverage@10", "gini@10", "novelty@10", "accuracy", "auc", "log_loss",
)  # fmt: skip
QUALITY = ("ndcg", "recall", "mrr", "map", "hit")  # what the validation curves show, besides the loss
MOST_CURVES = 5  # in one panel
POINTS_SHOWN = 240  # a curve with more points is averaged down to these


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One measure over the steps of a training run."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One stage's value in each group; a group that is absent has no bar."""

    name: str
    values: Mapping[str, float]
    quiet: bool = False
    """Drawn in grey: a baseline."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Points with two shares each."""

    name: str
    across: Sequence[float]
    up: Sequence[float]
    quiet: bool = False
    """Drawn in grey: what is compared with."""


def draw_training(lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Figures by caption from the lines of metrics.jsonl, whose keys may differ; empty where nothing was logged."""
    keys = sorted({key for line in lines for key in line} - {"step", "epoch"})
    quality = [key for key in keys if key.startswith("valid/") and key.split("/")[1].startswith(QUALITY)]
    whole = [key for key in quality if key.count("/") == 1]  # the segments stand in the bars
    rates = [key for key in keys if key.split("/")[-1].startswith(("lr", "learning_rate"))]
    panels = {
        "Loss": ([key for key in keys if "loss" in key], 280),
        "Validation": (_important(whole), 280),
        "Learning rate": (rates, 170),
        "Speed, rows per second": ([key for key in keys if key.endswith("rows_per_s")], 170),
    }
    figures = {}
    for title, (names, height) in panels.items():
        curves = [curve for key in names if (curve := read_curve(lines, key)).steps][:MOST_CURVES]
        if curves:
            figures[title] = draw_curves(curves, title=f"{title} by step", size=(WIDTH, height))
    return figures


def draw_curves(curves: Sequence[Curve], *, title: str, size: tuple[int, int] = (WIDTH, 280)) -> str:
    """Lines over steps as one inline SVG; `title` is what a screen reader says, `size` is in CSS pixels.

    More than `POINTS_SHOWN` points are averaged in equal neighbouring groups. Raises InputError without matplotlib.
    """
    with _axes(size) as (figure, axes):
        axes.margins(x=0.02)
        for curve, colour in zip(curves, _cycle(LOUD), strict=False):
            steps, values = average(curve.steps), average(curve.values)
            marker = "o" if len(steps) <= 40 else None
            axes.plot(steps, values, color=colour, label=curve.name, linewidth=1.8, marker=marker, markersize=4)
        if min(min(curve.values) for curve in curves) >= 0:
            axes.set_ylim(bottom=0)
        axes.set_xlabel("step", color=MUTED)
        axes.locator_params(axis="x", integer=True, nbins=7)
        axes.ticklabel_format(axis="x", style="plain", useOffset=False)
        add_legend(axes, len(curves))
        return to_svg(figure, title)


def draw_bars(
    series: Sequence[Bars], groups: Sequence[str], *, title: str, size: tuple[int, int] = (WIDTH, 280)
) -> str:
    """Grouped bars with their values above them, as one inline SVG; arguments as in `draw_curves`."""
    loud, quiet = _cycle(LOUD), _cycle(QUIET)
    width = 0.84 / len(series)
    with _axes(size) as (figure, axes):
        for number, bars in enumerate(series):
            shown = [(place, bars.values[group]) for place, group in enumerate(groups) if group in bars.values]
            left = [place + (number - (len(series) - 1) / 2) * width for place, _ in shown]
            drawn = axes.bar(
                left,
                [value for _, value in shown],
                width=width * 0.9,
                color=next(quiet if bars.quiet else loud),
                label=bars.name,
            )
            if len(series) * len(groups) <= 20:  # more labels than these run into each other
                axes.bar_label(drawn, [brief(value) for _, value in shown], padding=2, fontsize=10, color=MUTED)
        axes.margins(y=0.1)
        axes.set_xticks(range(len(groups)), groups, fontsize=12, color=INK)
        axes.tick_params(axis="x", length=0)
        add_legend(axes, len(series))
        return to_svg(figure, title)


def draw_shares(
    lines: Sequence[Shares], *, title: str, across: str, up: str, mark: tuple[float, float] | None = None,
    diagonal: bool = False, size: tuple[int, int] = (WIDTH, 320),
) -> str:  # fmt: skip
    """Lines through points whose two values are shares of 0 to 1, as one inline SVG.

    Args:
        lines: from quiet to loud; grey ones lie below.
        title: what a screen reader says.
        across: what the horizontal axis says.
        up: what the vertical axis says.
        mark: a point that is ringed, with lines to both axes.
        diagonal: both axes end at the highest value and have root spacing, so that small shares can be told apart; the
            points stand alone, and a line shows where both are equal.
        size: in CSS pixels.
    """
    loud, quiet = _cycle(LOUD), _cycle(QUIET)
    top = min(1.05 * max(max(*line.across, *line.up) for line in lines), 1.0) if diagonal else 1.0
    with _axes(size) as (figure, axes):
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        if diagonal:
            axes.set_xscale("function", functions=(_root, np.square))
            axes.set_yscale("function", functions=(_root, np.square))
            axes.plot([0, top], [0, top], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for line in lines:
            colour, dots = next(quiet if line.quiet else loud), "o" if diagonal else None
            axes.plot(line.across, line.up, dots or "-", color=colour, label=line.name, linewidth=1.8, markersize=5)
        if mark is not None:
            axes.plot([0, mark[0], mark[0]], [mark[1], mark[1], 0], color=INK, linewidth=1, linestyle=(0, (2, 3)))
            axes.plot(*mark, "o", color=INK, markersize=7, markerfacecolor="none", markeredgewidth=1.6)
        ticks = _root_ticks(top) if diagonal else np.linspace(0, 1, 6)
        for axis, name in ((axes.xaxis, across), (axes.yaxis, up)):
            axis.set_ticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
            axis.set_label_text(name, color=MUTED)
        axes.set(xlim=(0, top), ylim=(0, top))
        axes.tick_params(axis="x", pad=6)
        add_legend(axes, len(lines))
        return to_svg(figure, title)


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0))


def _root_ticks(top: float) -> list[float]:
    """Zero and up to six round shares, about evenly spread after taking roots."""
    step = _root(np.array(top)) / 6
    wanted = [float((step * place) ** 2) for place in range(1, 7)]
    scale = [10.0 ** math.floor(math.log10(share)) for share in wanted]
    return sorted({0.0, *(min(round(share / unit), 10) * unit for share, unit in zip(wanted, scale, strict=True))})


def number(value: float | None) -> str:
    """Three decimals below one, two above, a dash where there is no finite value."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:,.2f}"


def duration(seconds: float | None) -> str:
    """0.42 s, 12 s, 3 min 20 s, 2 h 5 min; a dash where it was not measured."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"


def metric_label(name: str) -> str:
    """ndcg@10 -> nDCG@10, recall@10 -> Recall@10, mrr -> MRR."""
    base, at, depth = name.partition("@")
    known = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP", "ece": "ECE", "auc": "AUC", "log_loss": "Log-loss"}
    return known.get(base, base[:1].upper() + base[1:]) + at + depth


def is_finite(value: object) -> bool:
    """Whether it is a number that can be shown; JSON written by Python may hold NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def brief(value: float) -> str:
    """Two decimals without the leading zero, for a label above a bar: 0.414 -> .41, 0.001 -> <.01, 0 -> 0."""
    if value == 0:
        return "0"
    return "<.01" if 0 < value < 0.005 else f"{value:.2f}".removeprefix("0")


def average(values: Sequence[float], most: int = POINTS_SHOWN) -> list[float]:
    """Means of at most `most` equal groups of neighbours; the values themselves where they are few enough."""
    if len(values) <= most:
        return list(values)
    return [float(part.mean()) for part in np.array_split(np.asarray(values, dtype=float), most)]


def thumbnail(path: Path, side: int = 112) -> str | None:
    """The image as a small JPEG data URI, at most `side` pixels each way; None where it is missing or unreadable."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise needs_extra("pillow") from error
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (side * 2, side * 2))  # JPEG: decode at about the size that is needed
            image = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    image.thumbnail((side, side))
    page = Image.new("RGBA", image.size, "white")  # JPEG has no transparency
    buffer = io.BytesIO()
    Image.alpha_composite(page, image).convert("RGB").save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _important(keys: Sequence[str]) -> list[str]:
    """The main measures first, the others after them."""
    order = {f"valid/{name}": place for place, name in enumerate(MAIN_METRICS)}
    return sorted(keys, key=lambda key: order.get(key, len(order)))


def read_curve(lines: Iterable[Mapping[str, Any]], key: str) -> Curve:
    """Finite values of `key` by step; where a step was logged twice (a resumed run), the later line counts."""
    found = {line["step"]: line[key] for line in lines if is_finite(line.get("step")) and is_finite(line.get(key))}
    steps = sorted(found)
    name = metric_label(key.removeprefix("valid/")) if "loss" not in key else key
    return Curve(name=name, steps=steps, values=[found[step] for step in steps])


def needs_extra(package: str) -> InputError:
    """The sentence for a package of the extra that is not there; the packages are imported where they are needed, so
    that the table for the terminal works without them."""
    return InputError(f"The report needs {package}, which is not installed: pip install 'recsys[reports]'")


@contextmanager
def _axes(size: tuple[int, int]) -> Iterator[tuple["Figure", "Axes"]]:
    """A quiet pair of axes."""
    with open_panels(size, 1) as (figure, (axes,)):
        yield figure, axes


@contextmanager
def open_panels(size: tuple[int, int], count: int, columns: int = 3) -> Iterator[tuple["Figure", list["Axes"]]]:
    """A figure with so many quiet pairs of axes, without pyplot and its global state; `size` in CSS pixels."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise needs_extra("matplotlib") from error
    settings: dict[Any, Any] = {"svg.fonttype": "none", "text.parse_math": False, "font.size": 12}
    with rc_context(settings):
        figure = Figure(figsize=(size[0] / UNITS_PER_INCH, size[1] / UNITS_PER_INCH), layout="constrained")
        rows = -(-count // columns)
        panels = [figure.add_subplot(rows, min(count, columns), number + 1) for number in range(count)]
        for axes in panels:
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.spines["bottom"].set_color(GRID)
            axes.grid(axis="y", color=GRID, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.tick_params(length=0, colors=MUTED)
        yield figure, panels


def add_legend(axes: "Axes", entries: int) -> None:
    """What each line is, above the axes."""
    if entries < 2:  # the caption says what it is
        return
    columns = entries if entries <= 4 else 3
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        frameon=False,
        labelcolor=INK,
        handlelength=1.1,
        columnspacing=1.4,
        borderaxespad=0.3,
        borderpad=0,
    )


def _cycle(colours: Sequence[str]) -> Iterator[str]:
    while True:
        yield from colours


def to_png(figure: "Figure") -> bytes:
    """The figure on white paper, in the colours of the light page."""
    from matplotlib.colors import to_hex

    figure.draw_without_rendering()  # ticks are made when they are drawn
    for artist in figure.findobj():
        for part in ("color", "markerfacecolor", "markeredgecolor", "facecolor", "edgecolor"):
            read, write = (getattr(artist, f"{verb}_{part}", None) for verb in ("get", "set"))
            colour = read() if read and write else None
            name = to_hex(colour) if isinstance(colour, str | tuple) and colour != "none" else ""
            if write and name in PAPER:
                write(PAPER[name])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * UNITS_PER_INCH, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: "Figure", title: str) -> str:
    """The figure as an SVG element that scales to its box, with CSS variables in place of colours."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    salt = f"{zlib.crc32(title.encode()):08x}"  # clip paths and markers keep ids; two figures must not share them
    with rc_context({"svg.hashsalt": salt}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    text = re.sub("|".join(VARIABLES), lambda found: f"var(--{VARIABLES[found[0]]})", text)
    box = re.search(r'viewBox="[^"]*"', text)
    opening = f'<svg {box[0] if box else ""} role="img" aria-label="{html.escape(title)}">'
    return opening + text[text.index(">") + 1 :].strip()
