"""docs/benchmarks.md from the figures that are there: runs/bench/*.json. What is missing is said to be missing.

python benchmarks/render.py [--figures=runs/bench] [--page=docs/benchmarks.md]
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import FIGURES

PAGE = Path("docs/benchmarks.md")
NOT_MEASURED = "not measured"
Figures = dict[str, Any]

INTRODUCTION = """# Benchmarks

`make bench` measures and writes this page; nothing on it is typed by hand. What takes hours (`make bench-quality`) or
another machine (`python benchmarks/gpu.py`, eight minutes on one CUDA GPU) is run by itself, and `python
benchmarks/render.py` writes the page anew. A ratio is the median over pairs of turns, ours and the other's one after
the other, with the range of all pairs. A share of the peak counts real tokens alone, never padding, against the rate of
matrix products at the same precision that was measured right before each pair of turns."""


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown; the first column to the left, the others to the right."""
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ruler, *rows))


def facts(found: Figures) -> str:
    """One line: machine, versions, date."""
    machine = found["machine"]
    units = f" ({', '.join(machine['units'])})" if machine["units"] else ""
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores{units}{gpu}, {found['threads']} threads; {versions}; "
        f"{found['date']}; {found['minutes']:g} minutes: `{found['command']}`"
    )


def rate(value: float) -> str:
    """With three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def compared(found: Figures) -> str:
    """Rows that are `Comparison`s, and what was checked beside them."""
    rows = [
        [
            row["name"], row["precision"], f"{rate(row['ours'])} {row['unit']}", rate(row["peer"]),
            f"**{row['ratio']['median']:.2f}** ({row['ratio']['low']:.2f} to {row['ratio']['high']:.2f})",
            f"{row['share']:.0%}", f"{row['peer_share']:.0%}", f"{row['memory'][0]:,.0f}", f"{row['memory'][1]:,.0f}",
        ]
        for row in found["rows"]
    ]  # fmt: skip
    head = ["", "precision", "ours", "peer's", "ratio", "share of the peak", "peer's", "MiB", "peer's"]
    parts = [table(head, rows)]
    peaks = [_peak(name, one) for name, one in found.get("peaks", {}).items()]
    parts += [f"The peak: {', '.join(peaks)}."] if peaks else []
    across = [f"{name} {ratio:.2f} x" for name, ratio in found.get("across", {}).items()]
    parts += [f"Ours in bf16 against the peer in fp32: {', '.join(across)}."] if across else []
    if found.get("checks"):
        parts.append(table(["checked", ""], [[name, f"{value:.6g}"] for name, value in found["checks"].items()]))
    parts += [_losses(found["losses"])] if found.get("losses") else []
    return "\n\n".join(parts)


def _peak(precision: str, one: Figures) -> str:
    low, middle, high = (f"{one[name] / 1e9:,.0f}" for name in ("low", "median", "high"))
    return f"{middle} GFLOP/s ({low} to {high}) in {precision}"


def _losses(losses: dict[str, list[list[float]]]) -> str:
    """Both curves, side by side."""
    rows = [
        [f"{name}, {side}", *[f"{value:.3f}" for value in values]]
        for name, pair in losses.items()
        for side, values in zip(("ours", "peer's"), pair, strict=True)
    ]
    steps = max(len(row) for row in rows) - 1
    rows = [[*row, *[""] * (steps + 1 - len(row))] for row in rows]
    return table(["loss of step", *map(str, range(1, steps + 1))], rows)


def growth(found: Figures) -> str:
    """Exponents."""
    head = ["", "input", "start-up, s (input)", "x1, s", "x16, s", "exponent of time", "x1, MiB", "memory, x16 / x1"]
    return table(head, [_grown(row) for row in found["rows"]])


def _grown(row: Figures) -> list[str]:
    sizes, seconds, memory = row["sizes"], row["seconds"], row["memory"]
    return [
        row["stage"], f"{sizes[0]:,} to {sizes[-1]:,} {row['unit']}", f"{row['start']:.2f} ({row['least']:,})",
        f"{seconds[0]:.2f}", f"{seconds[-1]:.2f}", _exponent(row), f"{memory[0]:,.0f}", f"{memory[-1] / memory[0]:.2f}",
    ]  # fmt: skip


def _exponent(row: Figures) -> str:
    value, error = row["exponent"], row["error"]
    return "too short to fit" if math.isnan(value) else f"**{value:.2f}** +- {error:.2f}"


def gpu(found: Figures) -> str:
    """On a CUDA GPU."""
    if "not_measured" in found:
        return f"{NOT_MEASURED}: {found['not_measured']}"
    rows = [
        [
            row["name"], side, f"{row[side]['tokens']:,.0f}", f"{rate(row[side]['rows'])} {row['unit']}",
            f"{row[side]['share']:.0%}", f"{row[side]['memory']:.1f}",
        ]
        for row in found["rows"]
        for side in ("ours", "padded")
    ]  # fmt: skip
    sheet = f", {found['sheet'] / 1e12:,.0f} by its data sheet" if found.get("sheet") else ""
    peak = f"The peak, {found['precision']}: {found['peak'] / 1e12:,.0f} TFLOP/s measured{sheet}."
    return table(["", "", "tokens/s", "rows/s", "MFU", "GiB"], rows) + f"\n\n{peak}"


def quality(found: Figures) -> str:
    """Time to quality."""
    rows = [
        [name, f"{one['best']:.4f}", f"{one['minutes']:.1f}", one["settings"]] for name, one in found["sides"].items()
    ]
    reached = found["reached"]
    said = (
        "Ours did not reach the peer's best."
        if reached is None
        else f"Ours reached the peer's best after {reached:.1f} minutes, the peer after {found['peer_minutes']:.1f}: "
        f"**{reached / found['peer_minutes']:.2f}** of its time."
    )
    head = ["", "best nDCG@10 on valid", "minutes to it", "settings"]
    return table(head, rows) + f"\n\n{said}"


def plain(found: Figures) -> str:
    """Rows that are a header and cells."""
    return f"{found['note']}\n\n{table(found['head'], found['cells'])}"


@dataclass(frozen=True, kw_only=True)
class Section:
    """Of the page."""

    name: str
    """Of its figures."""
    title: str
    about: str
    write: Callable[[Figures], str]


SECTIONS = (
    Section(
        name="peers", title="Beside sentence-transformers", write=compared,
        about="MiniLM-L6, texts and pairs of MovieLens-1M, at most 128 tokens; `benchmarks/peers.py` says how.",
    ),
    Section(
        name="split", title="A pruner with split layers", write=plain,
        about="Lower layers read request and candidates apart and once, upper ones together: `benchmarks/split.py`.",
    ),
    Section(
        name="quality", title="Time to quality", write=quality,
        about="Search on MovieLens-1M: minutes of training until nDCG@10 on the valid queries is the peer's own best.",
    ),
    Section(
        name="growth", title="Growth", write=growth,
        about="Time and memory of each stage when its input grows from once to sixteen times; start-up is subtracted.",
    ),
    Section(
        name="gpu", title="One CUDA GPU", write=gpu,
        about="BERT-base from scratch, texts of mixed lengths. Padded: each batch as long as its longest text.",
    ),
    Section(name="index", title="Index", write=plain, about="A tuned index beside FAISS: `benchmarks/index.py`."),
    Section(name="rerank", title="Re-ranking", write=plain, about="200 candidates to a list of 20, on one core."),
)  # fmt: skip


def render(folder: Path) -> str:
    """The page."""
    parts = [INTRODUCTION]
    for section in SECTIONS:
        path = folder / f"{section.name}.json"
        found = json.loads(path.read_text()) if path.is_file() else None
        body = NOT_MEASURED if found is None else f"{section.write(found)}\n\n{facts(found)}"
        parts.append(f"## {section.title}\n\n{section.about}\n\n{body}")
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args(arguments)
    asked.page.write_text(render(asked.figures))
    print(asked.page)


if __name__ == "__main__":
    main()
