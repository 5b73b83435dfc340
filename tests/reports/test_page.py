"""The report page: what it shows, what it keeps to itself, and what it refuses."""

import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from recsys.errors import InputError
from recsys.reports.page import Stage, print_results, verdict, write_page

VOID = {"meta", "img", "br", "link", "input", "hr"}
SCRIPT = "<script>alert(1)</script>"


def item(number: int, **more: Any) -> dict[str, Any]:
    return {"item_id": number, "title": f"item {number}", "image": None, "detail": f"brand {number}", **more}


def samples() -> dict[str, Any]:
    candidates = [item(n, retriever_score=5.0 - n, is_target=n == 2) for n in range(1, 5)]
    recommendations = [
        item(n, rank=rank, score=1 / rank, retriever_score=5.0 - n, pruner_score=0.5, is_target=n == 2)
        for rank, n in enumerate((4, 2), 1)
    ]
    user = {
        "id": "u123",
        "profile": {"age": 34},
        "query": "secret words",
        "history": [item(8, title=SCRIPT), item(9, image="photo.png")],
        "target": item(2),
        "candidates": candidates,
        "recommendations": recommendations,
    }
    return {"users": [user]}


RESULTS = {
    "stages": [
        {"name": "popularity", "metrics": {"recall@10": 0.04, "ndcg@10": 0.02, "gini@10": 0.9}, "seconds": 1.0},
        {"name": "Markov", "metrics": {"recall@10": 0.28, "ndcg@10": 0.16, "recall@10/head": 0.3}, "seconds": None},
        {"name": "pruner", "metrics": {"recall@10": 0.35, "ndcg@10": 0.2, "gini@10": 0.6}, "seconds": 75},
    ],
    "queries": 6040,
    "latency_ms": {"recommend": {"p50": 11.5, "p99": 31.25}},
}

HEADINGS = {
    "config.yaml": "Config",
    "versions.json": "Versions",
    "metrics.jsonl": "Training",
    "results.json": "Measures by stage",
    "samples.json": "Sampled users",
    "dropped": "Dropped rows",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my <run>"
    (folder / "dropped").mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 7  # <b>\n")
    (folder / "versions.json").write_text(json.dumps({"torch": "2.13.0", "machine": "a laptop", "git": None}))
    (folder / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n\n{"step": 2, "train/loss": 1.0}\n')
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "samples.json").write_text(json.dumps(samples()))
    pl.DataFrame({"user_id": range(1234)}).write_parquet(folder / "dropped" / "orphans.parquet")
    Image.new("RGB", (300, 300), "red").save(folder / "photo.png")
    return folder


@pytest.fixture
def shop(run: Path) -> Path:
    """A run with nothing but samples and a photo: no figure to draw, so quick."""
    for name in ("config.yaml", "versions.json", "metrics.jsonl", "results.json", "dropped/orphans.parquet"):
        (run / name).unlink()
    return run


def page(run: Path, *, show_ids: bool = False) -> str:
    return write_page(run, show_ids=show_ids).read_text("utf-8")


class Nesting(HTMLParser):
    """Collects tags that close out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"{tag} at {self.getpos()}")


def headings(html: str) -> set[str]:
    found = set(re.findall(r"<(?:h2|summary)>([^<]*)<", html))
    return {name for name, heading in HEADINGS.items() if heading in found}


def test_every_file_of_the_run_has_its_section(run: Path):
    html = page(run)
    assert headings(html) == set(HEADINGS)
    for text in ("6,040", "a laptop", "1,234", "seed: 7", "31.25", "1 min 15 s", "Popular and rare items", "orphans"):
        assert text in html


@pytest.mark.parametrize("only", sorted(HEADINGS))
def test_a_section_is_there_only_if_its_file_is(run: Path, only: str):
    for name in set(HEADINGS) - {only}:
        (run / name / "orphans.parquet" if name == "dropped" else run / name).unlink()
    assert headings(page(run)) == {only}


def test_the_page_is_well_formed_and_fetches_nothing(run: Path):
    html = page(run)
    nesting = Nesting()
    nesting.feed(html)
    assert nesting.wrong == []
    assert nesting.open == []
    assert "<script" not in html
    assert all(link.startswith(("data:image/", "#")) for link in re.findall(r'(?:src|href)="([^"]*)"', html))
    assert not re.search(r"@import|url\((?!#)", html)


def test_texts_of_the_user_are_escaped(run: Path):
    html = page(run)
    assert "&lt;script&gt;alert(1)" in html
    assert "my &lt;run&gt;" in html
    assert "seed: 7  # &lt;b&gt;" in html


def test_ids_profiles_and_queries_are_printed_only_when_asked_for(shop: Path):
    private = ("u123", "age: 34", "secret words")
    html = page(shop)
    assert not [text for text in private if text in html]
    assert "Sampled user 1" in html
    html = page(shop, show_ids=True)
    assert not [text for text in private if text not in html]
    assert "Sampled user 1" not in html


def test_the_target_is_marked_and_its_place_told(shop: Path):
    html = page(shop)
    assert "Target at rank 2" in html
    assert html.count('class="target"') == 2  # among the candidates and in the list
    assert "from 4" in html


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"recommendations": []}, "Target was candidate 2, not kept"),
        ({"recommendations": [], "candidates": []}, "Target not among the candidates"),
    ],
)
def test_a_target_that_was_lost_is_shown_with_the_stage_that_lost_it(shop: Path, change: dict[str, Any], told: str):
    sample = samples()
    sample["users"][0] |= change
    (shop / "samples.json").write_text(json.dumps(sample))
    assert told in page(shop)


def test_a_user_without_a_target_or_any_list_is_shown(shop: Path):
    (shop / "samples.json").write_text(json.dumps({"users": [{"id": None, "query": "secret words"}]}))
    html = page(shop)
    assert "Sampled user 1" in html
    assert "Target" not in html


def test_images_are_inside_the_page_and_a_broken_one_becomes_a_letter(shop: Path):
    whole = page(shop)
    assert whole.count('src="data:image/jpeg;base64,') == 1
    (shop / "photo.png").write_bytes(b"broken")
    broken = page(shop)
    assert "data:image" not in broken
    assert broken.count("letter") == whole.count("letter") + 1


def test_bars_start_at_zero_and_negative_scores_still_fit(shop: Path):
    sample = samples()
    for entry, score in zip(sample["users"][0]["candidates"], (3.0, 1.0, 0.0, -1.0), strict=True):
        entry["retriever_score"] = score
    (shop / "samples.json").write_text(json.dumps(sample))
    widths = re.findall(r"width:([\d.]+)%", page(shop))
    assert widths == ["100.0", "50.0", "25.0", "0.0", "100.0", "50.0"]


def test_the_best_of_each_column_is_marked_and_low_gini_is_good(run: Path):
    html = page(run)
    best = re.findall(r'<td class="best"><span>([^<]*)<', html)
    assert best == ["0.200", "0.350", "0.600"]


def stages(**ndcg: float) -> list[Stage]:
    return [Stage(name=name, metrics={"ndcg@10": value}, seconds=None) for name, value in ndcg.items()]


@pytest.mark.parametrize(
    ("measured", "sentence"),
    [
        (
            stages(popularity=0.02, Markov=0.16, pruner=0.2),
            "Pruner is best with nDCG@10 0.200, 25 % above the best baseline, Markov (0.160).",
        ),
        (
            stages(Markov=0.16, pruner=0.1),
            "Markov is best with nDCG@10 0.160: no model beats this baseline. The next is pruner (0.100).",
        ),
        (
            stages(popularity=0.0, pruner=0.1),
            "Pruner is best with nDCG@10 0.100, 0.100 above the best baseline, popularity (0.000).",
        ),
        (
            stages(retriever=0.1005, popularity=0.1),
            "Retriever is best with nDCG@10 0.101, 0.5 % above the best baseline, popularity (0.100).",
        ),
        (stages(retriever=0.1), "Retriever is best with nDCG@10 0.100."),
        ([Stage(name="pruner", metrics={"coverage@10": 1.0}, seconds=None)], ""),
        ([], ""),
    ],
)
def test_the_verdict_compares_the_best_stage_with_the_best_baseline(measured: list[Stage], sentence: str):
    assert verdict(measured) == sentence


def test_a_low_calibration_error_is_the_best(shop: Path):
    measured = [("pruner", 0.01), ("pruner, valid_query", 0.02)]
    entries = [{"name": name, "metrics": {"ece": error}} for name, error in measured]
    (shop / "results.json").write_text(json.dumps({"stages": entries}))
    html = page(shop)
    assert re.findall(r'<td class="best"><span>([^<]*)<', html) == ["0.010"]
    assert ">ECE<" in html


def test_a_stage_that_only_equals_its_baseline_does_not_beat_it():
    assert "no model beats this baseline" in verdict(stages(Markov=0.1, pruner=0.1))
    assert "no model beats this baseline" in verdict(stages(pruner=0.1, Markov=0.1))


def test_an_oracle_is_no_model_that_wins():
    measured = stages(oracle=0.5, popularity=0.1, pruner=0.2)
    assert verdict(measured).startswith("Pruner is best")
    table = print_results({"stages": [{"name": one.name, "metrics": one.metrics} for one in measured]})
    assert "0.200*" in table
    assert "0.500*" not in table


def test_the_terminal_table_is_aligned_and_marks_the_best():
    lines = print_results(RESULTS).splitlines()
    assert lines[0].split() == ["stage", "nDCG@10", "Recall@10", "Gini@10", "time"]
    assert lines[4].split() == ["pruner", "0.200*", "0.350*", "0.600*", "1", "min", "15", "s"]
    assert lines[3].split() == ["Markov", "0.160", "0.280", "-", "-"]
    assert {line.index(cell) for line, cell in zip(lines[2:], ("0.020", "0.160", "0.200"), strict=True)} == {13}


def test_the_terminal_table_needs_nothing_of_the_extra(monkeypatch: pytest.MonkeyPatch):
    for name in ("jinja2", "matplotlib", "PIL"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pruner" in print_results(RESULTS)


def test_a_missing_or_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no run folder"):
        write_page(tmp_path / "absent")
    with pytest.raises(InputError, match="holds nothing to report"):
        write_page(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", '{"step": 1}\n{"step": 2, \n', r"metrics\.jsonl, line 2: not valid JSON"),
        ("metrics.jsonl", "[1]\n", r"metrics\.jsonl, line 1: found a list"),
        ("results.json", '{\n"stages": [\n}', r"results\.json, line 3: not valid JSON"),
        ("results.json", '{"stages": 3}', r"results\.json: found 'stages' of type int"),
        ("results.json", '{"stages": [{"name": "pruner"}]}', r"results\.json: stages\[0\]"),
        ("results.json", '{"stages": [], "latency_ms": [1]}', r"results\.json: latency_ms"),
        ("samples.json", "{}", r"samples\.json: found 'users' of type NoneType"),
        ("samples.json", '{"users": [{"history": [{}]}]}', r"users\[0\]\.history\[0\] is no object with an item_id"),
        ("versions.json", "null", r"versions\.json, line 1: found a NoneType"),
        ("dropped/orphans.parquet", "text", r"orphans\.parquet cannot be read as Parquet"),
    ],
)
def test_a_broken_file_is_refused_by_name_and_place(shop: Path, name: str, text: str, message: str):
    (shop / name).write_text(text)
    with pytest.raises(InputError, match=message):
        write_page(shop)
    assert not (shop / "report.html").exists()


def test_text_that_is_not_utf8_is_refused(shop: Path):
    (shop / "config.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"config\.yaml cannot be read as text"):
        write_page(shop)


def test_values_that_are_no_numbers_are_shown_as_a_dash(shop: Path):
    odd = {"stages": [{"name": "pruner", "metrics": {"mrr": float("nan"), "ndcg@10": 0.5}, "seconds": "x"}]}
    (shop / "results.json").write_text(json.dumps({**odd, "queries": "many"}))
    assert "many" not in page(shop)


def test_a_page_that_cannot_be_written_leaves_the_old_one(shop: Path, monkeypatch: pytest.MonkeyPatch):
    old = page(shop)
    before = sorted(shop.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_page(shop, show_ids=True)
    assert (shop / "report.html").read_text("utf-8") == old
    assert sorted(shop.iterdir()) == before


def test_a_folder_that_cannot_be_written_to_is_named(shop: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("recsys.reports.files.tempfile.mkstemp", refuse)
    with pytest.raises(InputError, match=r"Cannot write .*report\.html .*Permission denied"):
        write_page(shop)


def test_a_missing_jinja2_is_named_with_its_extra(shop: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InputError, match=r"jinja2.*recsys\[reports\]"):
        write_page(shop)
