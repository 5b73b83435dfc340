"""Reasons, heat and badges on the page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import InputError
from recsys.reports.page import write_page
from recsys.reports.reasons import read_reasons

SCRIPT = "<script>alert(1)</script>"


def item(number: int, **more: Any) -> dict[str, Any]:
    return {"item_id": number, "title": f"item {number}", "detail": "brand", "score": 0.5, **more}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    user = {"id": "u1", "recommendations": [item(4, is_tail=True), item(2), item(7)]}
    (tmp_path / "samples.json").write_text(json.dumps({"users": [user]}))
    rows = [
        {
            "id": "u1",
            "item_id": "4",
            "reason": f"Because you bought “{SCRIPT}”.",
            "words": [["red", 2.0], [SCRIPT, -1.0]],
        },
        {"id": "u1", "item_id": "2", "reason": "Because you searched for “secret words”.", "quotes_search": True},
    ]
    (tmp_path / "reasons.json").write_text(json.dumps({"users": rows}))
    return tmp_path


def test_a_list_shows_tail_badges_reasons_and_heat_and_all_of_it_escaped(run):
    html = write_page(run).read_text()
    assert html.count('class="tail"') == 1
    assert "Because you bought “&lt;script&gt;alert(1)&lt;/script&gt;”." in html
    assert "<script" not in html
    words = re.findall(r'<span class="(for|against)" style="--heat:(\d+)%" title="[^"]*">([^<]*)<', html)
    assert words == [("for", "75", "red"), ("against", "38", "&lt;script&gt;alert(1)&lt;/script&gt;")]


def test_what_was_searched_is_quoted_only_when_asked_for(run):
    assert "secret words" not in write_page(run).read_text()
    assert "secret words" in write_page(run, show_ids=True).read_text()


def test_a_run_that_was_not_explained_has_neither(run):
    (run / "reasons.json").unlink()
    html = write_page(run).read_text()
    assert 'class="reason"' not in html
    assert 'class="heat"' not in html


@pytest.mark.parametrize("content", [{"users": 3}, {"users": [{"item_id": 1, "words": [["red"]]}]}])
def test_a_broken_file_is_refused_by_name(run, content):
    (run / "reasons.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"reasons\.json"):
        read_reasons(run / "reasons.json")
