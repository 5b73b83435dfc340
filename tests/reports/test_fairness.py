"""The section on groups: what is withheld is said to be, what is broken is refused."""

import json

import pytest

from recsys.errors import InputError
from recsys.reports.fairness import print_fairness, read_fairness
from recsys.reports.page import write_page

VALUE = {"mean": 0.25, "low": 0.125, "high": 0.5}
COLUMN = {"told": [{"name": "young", "people": 30, "value": VALUE}], "withheld": 2, "gap": VALUE}
RESULTS = {
    "stages": [],
    "fairness": {
        "valid": {
            "requests": 40,
            "users": [{"column": "age", "measures": {"ndcg@10": COLUMN, "non_head@10": COLUMN}}],
            "items": [
                {
                    "by": "popularity",
                    "gap": None,
                    "groups": [
                        {"group": "tail", "items": 5, "exposure": VALUE, "answers": VALUE, "ndcg@10": VALUE},
                        {"group": "unseen", "items": 1, "exposure": VALUE, "answers": None, "ndcg@10": None},
                    ],
                }
            ],
        }
    },
}


def test_the_page_tells_of_groups_and_of_what_is_withheld(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    page = write_page(tmp_path).read_text()
    assert "Users by age" in page
    assert "2 more, withheld" in page
    assert page.count("0.250 <small>0.125 to 0.500</small>") == 8
    assert "<td>withheld</td>" in page


def test_of_many_groups_the_page_shows_the_largest(tmp_path):
    told = [{"name": f"age {age}", "people": 90 - age, "value": VALUE} for age in range(20, 50)]
    column = {**COLUMN, "told": told}
    many = {**RESULTS["fairness"]["valid"], "users": [{"column": "age", "measures": {"ndcg@10": column}}]}
    many["users"][0]["measures"]["non_head@10"] = column
    (tmp_path / "results.json").write_text(json.dumps({"stages": [], "fairness": {"valid": many}}))
    page = write_page(tmp_path).read_text()
    assert "age 31" in page
    assert "age 32" not in page
    assert "18 smaller ones, in results.json" in page


def test_the_terminal_tells_the_gaps():
    said = print_fairness(RESULTS)
    assert "age               1 groups  nDCG@10 0.2500 [0.1250, 0.5000]" in said
    assert print_fairness({"stages": []}) == ""


def test_a_broken_row_is_refused():
    broken = json.loads(json.dumps(RESULTS))
    del broken["fairness"]["valid"]["items"][0]["groups"][0]["exposure"]
    with pytest.raises(InputError, match="fairness lacks a figure"):
        read_fairness(broken, "results.json")
