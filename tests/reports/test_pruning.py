"""The page's section on pruning: what its sentences say, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import InputError
from recsys.reports.page import write_page
from recsys.reports.pruning import chance_text, decision_sentence, pruning_section

PROMISES = {"lists": 149, "relevant": 130, "thresholds": [[0.02, 0.01], [0.05, 0.0311], [0.1, 0.05]]}


def curve(dropped: float) -> dict[str, Any]:
    points = {"threshold": [0.01, 0.03, 0.04], "kept": [1.0, 0.96, 0.5], "dropped": [0.1, dropped, 0.9]}
    return {**points, "dropped@95": dropped, "dropped@99": 0.1, "area": 0.8}


def content(**decision: Any) -> dict[str, Any]:
    bins = {"predicted": [0.0, 0.01, 0.2], "happened": [0.0, 0.02, 0.1], "count": [500, 499, 500]}
    one = {"lists": 30, "relevant": 40, "others": 1459, "ece": 0.0114, "reliability": bins}
    one |= {"pruner": curve(0.71), "retriever": curve(0.6)}
    decided = {"top": None, "probability": None, "loss": None, **decision}
    decisions, promises = ({"users": part, "queries": part} for part in (decided, PROMISES))
    return {"decision": decisions, "promises": promises, "sets": {"valid": one, "valid_query": one}}


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (
            {"probability": 0.0311, "loss": 0.05},
            "The decision keeps those with p ≥ .031: at most 5 % of the relevant ones are expected to be lost, fitted "
            "on 130 relevant candidates of 149 lists held out of train.",
        ),
        (
            {"top": 10},
            "keeps the 10 best of each list. With decision.loss 0.05 it would keep those with p ≥ .031, fitted",
        ),
        ({"top": 10, "probability": 0.2}, "keeps the 10 best of each list and of these those with p ≥ .200. With"),
        ({}, "keeps every candidate. With decision.loss 0.05"),
    ],
)
def test_the_decision_is_told_with_what_it_rests_on(decision: dict[str, Any], said: str):
    made = content(**decision)
    assert said in decision_sentence(made["decision"]["users"], made["promises"]["users"])
    section = pruning_section(made, "pruning.json")
    assert section is not None
    assert said in section.decision
    assert "For users" not in section.decision


def test_users_and_queries_are_told_apart_where_their_thresholds_differ():
    made = content(probability=0.02)
    made["decision"]["queries"] = {"top": None, "probability": 0.4, "loss": None}
    section = pruning_section(made, "pruning.json")
    assert section is not None
    assert section.decision.startswith("For users: the decision keeps those with p ≥ .020.")
    assert "For queries: the decision keeps those with p ≥ .400." in section.decision
    kept = [panel.sentence.split("the decision's probability ")[1] for panel in section.panels]
    assert kept == ["keeps 96.0 % and drops 71 %.", "keeps 0.0 % and drops 100 %."]


def test_a_pruner_that_promises_nothing_or_little_says_no_more_than_it_does():
    decision = content(top=3)["decision"]["users"]
    few = {**PROMISES, "thresholds": [[0.3, 0.2]]}
    assert {decision_sentence(decision, promises) for promises in (None, few)} == {
        "The decision keeps the 3 best of each list."
    }


def test_the_page_shows_a_curve_and_a_reliability_plot_for_each_set(tmp_path: Path):
    (tmp_path / "pruning.json").write_text(json.dumps(content(probability=0.02)))
    html = write_page(tmp_path).read_text("utf-8")
    assert html.count("Relevant kept, others dropped") == html.count("3 bins of 499 to 500") == 2
    assert html.count("ringed: the decision") == 2
    said = "Keeping 95 % of what is relevant drops 71 % of the rest (by the retriever&#39;s score 60 %); ECE .011; "
    assert said + "the decision&#39;s probability keeps 96.0 % and drops 71 %." in html
    (tmp_path / "pruning.json").write_text(json.dumps(content()))
    assert "ringed" not in write_page(tmp_path).read_text("utf-8")


def test_a_run_that_measured_no_pruning_has_no_section():
    assert pruning_section(None, "pruning.json") is None
    assert pruning_section({"decision": {}, "promises": None, "sets": {}}, "pruning.json") is None


@pytest.mark.parametrize("change", [{"decision": None}, {"sets": {"valid": {}}}, {"sets": {"valid": {"pruner": 3}}}])
def test_a_file_that_lacks_something_is_refused_by_name(change: dict[str, Any]):
    with pytest.raises(InputError, match=r"runs/x/pruning\.json does not hold pruning curves"):
        pruning_section({**content(), **change}, "runs/x/pruning.json")


@pytest.mark.parametrize(
    ("value", "text"), [(0.0311, ".031"), (0.0042, ".0042"), (0.5, ".500"), (0.0, "0"), (1.0, "1.000"), (3e-6, "3e-06")]
)
def test_a_chance_is_short_and_says_something(value: float, text: str):
    assert chance_text(value) == text
