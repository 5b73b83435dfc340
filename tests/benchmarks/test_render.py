import json
import time
from dataclasses import asdict
from pathlib import Path

import render
from growth import Growth
from measure import Comparison, keep
from render import NOT_MEASURED, SECTIONS


def row(name: str = "encoding") -> Comparison:
    return Comparison.of(
        name, "fp32", "texts/s", [(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)], count=150, flops=5.0, peaks=[10.0] * 3,
        memory=(900.0, 1.0),
    )  # fmt: skip


def test_what_is_missing_is_said_to_be_missing(tmp_path: Path):
    page = render.render(tmp_path)
    assert page.count(NOT_MEASURED) == len(SECTIONS)
    assert page.startswith("# Benchmarks\n")
    assert page.endswith(f"{NOT_MEASURED}\n")


def test_a_comparison_has_its_ratio_range_share_and_machine(tmp_path: Path):
    keep(
        "peers", time.perf_counter(), tmp_path, rows=[row()], checks={"cosine": 0.9995}, across={"encoding": 2.5},
        peaks={"fp32": {"median": 149e9, "low": 140e9, "high": 150e9, "count": 3}},
        losses={"fp32": [[2.0, 1.0], [2.1, 1.1]], "no dropout": [[2.0], [2.0]]},
    )  # fmt: skip
    page = render.render(tmp_path)
    assert "| encoding | fp32 | 150 texts/s | 50.0 | **3.00** (2.00 to 4.00) | 50% | 17% | 900 | 1 |" in page
    assert "The peak: 149 GFLOP/s (140 to 150) in fp32." in page
    assert "encoding 2.50 x" in page
    assert "| cosine | 0.9995 |" in page
    assert "| no dropout, peer's | 2.000 |  |" in page
    assert "torch " in page
    assert page.count(NOT_MEASURED) == len(SECTIONS) - 1


def test_growth_shows_exponents_and_memory(tmp_path: Path):
    grown = Growth.of("train", [2, 5], [[{"seconds": one, "own": 100.0} for one in (1.0, 2.0, 5.0)]])
    flat = Growth.of("train", [2, 5], [[{"seconds": 1.0, "own": 100.0}] * 3])
    keep("growth", time.perf_counter(), tmp_path, rows=[grown, flat])
    page = render.render(tmp_path)
    assert "| train | 2 to 5 pairs a step | 1.00 (1) | 2.00 | 5.00 | **1.00** +- 0.00 | 100 | 1.00 |" in page
    assert "too short to fit" in page


def test_no_gpu_is_not_measured(tmp_path: Path):
    keep("gpu", time.perf_counter(), tmp_path, not_measured="no CUDA GPU")
    assert "not measured: no CUDA GPU" in render.render(tmp_path)


def test_the_command_writes_the_page(tmp_path: Path):
    (tmp_path / "peers.json").write_text(json.dumps({
        "rows": [asdict(row())], "machine": {"cpu": "a chip", "cores": 2, "units": [], "gpu": None},
        "threads": 2, "versions": {"torch": "2"}, "date": "2026-01-01", "minutes": 1.0, "command": "python x.py",
    }))  # fmt: skip
    render.main([f"--figures={tmp_path}", f"--page={tmp_path}/page.md"])
    assert (
        "a chip, 2 cores, 2 threads; torch 2; 2026-01-01; 1 minutes: `python x.py`"
        in (tmp_path / "page.md").read_text()
    )


def test_re_ranking_is_kept_and_shown(tmp_path: Path):
    keep("rerank", time.perf_counter(), tmp_path, head=["", "ms a user"], cells=[["MMR", "0.590"]], note="1,000 users.")
    page = render.render(tmp_path)
    assert "1,000 users.\n\n|  | ms a user |\n| --- | ---: |\n| MMR | 0.590 |" in page
