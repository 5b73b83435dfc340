"""results.json: stages side by side, replaced by name."""

import json

import numpy as np
import pytest

from recsys.errors import InputError
from recsys.results import (
    add_requests,
    add_stage,
    read_requests,
    read_results,
    split_name,
    stage,
    stage_name,
    write_cascade,
    write_results,
    write_stages,
)


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


def values(*numbers: float) -> dict[str, np.ndarray]:
    return {"request": np.arange(len(numbers)), "segment": np.array(["head"] * len(numbers)), "mrr": np.array(numbers)}


@pytest.mark.parametrize(
    ("kind", "group", "name"),
    [("pruner", "valid", "pruner"), ("pruned lists", "test_query", "pruned lists, test_query")],
)
def test_a_stages_name_tells_its_set(kind, group, name):
    assert stage_name(kind, group) == name
    assert split_name(name) == (kind, group)


def test_values_of_requests_stand_in_place_of_those_of_the_same_stage_and_set(tmp_path):
    assert read_requests(tmp_path) is None
    for name, numbers in {"pruner": [0.1], "pruner, valid_query": [0.2, 0.3], "retriever": [0.4]}.items():
        add_requests(tmp_path, name, values(*numbers))
    add_requests(tmp_path, "pruner", values(0.5, 0.6))
    rows = read_requests(tmp_path)
    assert rows.columns == ["stage", "set", "request", "segment", "mrr"]
    assert rows.select("stage", "set", "mrr").rows() == [
        ("pruner", "valid_query", 0.2), ("pruner", "valid_query", 0.3), ("retriever", "valid", 0.4),
        ("pruner", "valid", 0.5), ("pruner", "valid", 0.6),
    ]  # fmt: skip


def test_values_of_requests_go_with_their_stage(tmp_path):
    add_requests(tmp_path, "pruner", values(0.1))
    add_requests(tmp_path, "pruner, valid_query", values(0.2))
    write_stages(tmp_path, [stage("pruner, valid_query", {})])
    assert read_requests(tmp_path)["mrr"].to_list() == [0.2]


def test_the_number_of_queries_is_that_of_the_first_stages_set(tmp_path):
    counts = {"popularity": 3.0, "pruner": 4.0, "pruner, test": 5.0}
    write_stages(tmp_path, [stage(name, {"queries": count}) for name, count in counts.items()])
    assert read_results(tmp_path)["queries"] == 4


def test_the_cascades_of_users_and_of_queries_stand_beside_each_other(tmp_path):
    for group, name in (("test", "old"), ("valid_query", "search"), ("valid", "new")):
        write_cascade(tmp_path, group, [{"name": name}])
    assert read_results(tmp_path)["cascade"] == {"valid_query": [{"name": "search"}], "valid": [{"name": "new"}]}


def test_values_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "requests.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"requests\.parquet cannot be read.*remove it"):
        read_requests(tmp_path)
