"""results.json: stages side by side, replaced by name."""

import json

import pytest

from recsys.errors import InputError
from recsys.results import add_stage, read_results, stage, write_results, write_stages


def names(folder) -> list[str]:
    return [one["name"] for one in read_results(folder)["stages"]]


def test_a_folder_without_results_has_no_stages(tmp_path):
    assert read_results(tmp_path) == {"stages": []}


def test_a_stage_is_added_at_the_end_in_place_of_its_name(tmp_path):
    add_stage(tmp_path, "retriever", {"ndcg@10": 0.1, "queries": 5.0}, seconds=3.0)
    add_stage(tmp_path, "pruner", {"ndcg@10": 0.2, "queries": 7.0})
    add_stage(tmp_path, "retriever", {"ndcg@10": 0.3, "queries": 9.0})
    content = read_results(tmp_path)
    assert names(tmp_path) == ["pruner", "retriever"]
    assert content["stages"][1] == {"name": "retriever", "metrics": {"ndcg@10": 0.3, "queries": 9.0}, "seconds": None}
    assert content["queries"] == 9


def test_stages_that_are_written_replace_all_and_keep_the_rest(tmp_path):
    write_results(tmp_path, {"stages": [stage("old", {})], "latency_ms": {"recommend": {"p50": 1.0, "p99": 2.0}}})
    write_stages(tmp_path, [stage("popularity", {}, 1.0), stage("lists", {"queries": 4.0})])
    assert names(tmp_path) == ["popularity", "lists"]
    assert read_results(tmp_path)["latency_ms"] == {"recommend": {"p50": 1.0, "p99": 2.0}}
    assert read_results(tmp_path)["queries"] == 4


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"stages": 3}', '{"stages": [{"metrics": {}}]}', "null"])
def test_a_file_that_holds_no_results_is_refused(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=r"results\.json does not hold results.*remove it"):
        read_results(tmp_path)


def test_no_temporary_file_is_left(tmp_path):
    add_stage(tmp_path, "retriever", {})
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    json.loads((tmp_path / "results.json").read_text())
