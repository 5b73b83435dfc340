"""The cascade in the terminal and on the page."""

import pytest

from recsys.errors import InputError
from recsys.reports.cascade import count, describe_set, milliseconds, print_cascade, read_cascade
from recsys.reports.page import write_page
from recsys.results import stage, write_cascade, write_stages


def row(name: str, coming: float, out: float, **more) -> dict:
    figures = {"answered": 40, "requests": 30, "recall": 0.8, "ndcg@10": 0.3, "ideal_ndcg@10": 0.75, "seconds": 0.01}
    return {"name": name, "in": coming, "out": out, **figures, "share": 0.5, **more}


RESULTS = {"cascade": {"valid": [row("retriever", 1000, 50), row("lists", 50, 9.5, recall=0.6)]}}


def test_a_step_tells_what_the_next_stage_could_still_gain():
    steps = read_cascade(RESULTS, "results")["valid"]
    assert [step.gain for step in steps] == pytest.approx([0.45, 0.45])
    assert 100 > steps[0].width > steps[1].width > 0


def test_the_terminal_table_has_a_line_for_each_stage():
    said = print_cascade(RESULTS)
    assert "cascade (users, valid): 30 requests with a known answer" in said
    assert "1,000 -> 50" in said
    assert "50 -> 9.5" in said
    assert "+0.450" in said
    assert "50%" in said


def test_without_a_cascade_there_is_nothing_to_tell():
    assert print_cascade({"stages": []}) == ""
    assert read_cascade({"cascade": {"valid": []}}, "results") == {}


@pytest.mark.parametrize("cascade", [[1], {"valid": 3}, {"valid": [{"name": "retriever"}]}, {"valid": [7]}])
def test_a_broken_cascade_is_refused(cascade):
    with pytest.raises(InputError, match="cascade"):
        read_cascade({"cascade": cascade}, "results.json")


def test_the_page_shows_the_funnel(tmp_path):
    write_stages(tmp_path, [stage("pruner", {"ndcg@10": 0.3, "queries": 30.0})])
    write_cascade(tmp_path, "valid", RESULTS["cascade"]["valid"])
    text = write_page(tmp_path).read_text()
    for shown in ("The cascade: users, valid", "<b>9.5</b> from lists", "80&nbsp;% of what is right", "+0.450"):
        assert shown in text


def test_sets_and_counts_are_words():
    assert [describe_set(name) for name in ("valid", "test_query")] == ["users, valid", "searches, test"]
    assert [count(value) for value in (3883, 9.5, 10.0)] == ["3,883", "9.5", "10"]
    assert [milliseconds(value) for value in (0.0021, 8e-6, 1.5)] == ["2.1 ms", "<0.1 ms", "1,500.0 ms"]
