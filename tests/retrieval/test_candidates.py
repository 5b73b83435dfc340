"""Candidates for the second selection: complete, labelled, repeatable, and nobody else's."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.filters import Allowed
from recsys.data.lists import CandidateLists
from recsys.data.requests import candidate_requests, join_requests, seen_items, user_requests
from recsys.data.split import VALID
from recsys.errors import InputError
from recsys.retrieval.candidates import retrieve, write_candidates
from recsys.retrieval.embed import OpenRetriever, embed_items
from recsys.retrieval.index import ItemIndex

TOP = 20


@pytest.fixture(scope="module")
def opened(journey) -> OpenRetriever:
    config = journey.infer(output=journey.folder / "unused")
    return OpenRetriever.open(Path(config.retriever), config.data)


@pytest.fixture
def written(journey) -> pl.DataFrame:
    """What the shared journey wrote by its command."""
    return pl.read_parquet(journey.folder / "runs/infer/candidates/part-*.parquet")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_request_has_its_best_items_in_order(opened, written):
    requests = join_requests([one for _, one in candidate_requests(opened.data, ["next_item", "query_to_item"])])
    assert written["request"].unique().sort().to_list() == list(range(len(requests)))
    for _, rows in written.group_by("request"):
        assert rows["rank"].to_list() == list(range(TOP))
        assert rows["score"].is_sorted(descending=True)


def test_scores_are_products_of_the_vectors_beside_them(journey, written):
    folder = journey.folder / "runs/infer/candidates"
    items, users = (np.load(folder / f"{name}_vectors.npy", allow_pickle=False) for name in ("item", "user"))
    product = (users[written["request"].to_numpy()] * items[written["item"].to_numpy()]).sum(1)
    np.testing.assert_allclose(written["score"].to_numpy(), product, rtol=1e-4, atol=1e-4)


def test_labels_are_the_grades_of_what_was_right(opened, written):
    requests = join_requests([one for _, one in candidate_requests(opened.data, ["next_item", "query_to_item"])])
    for request, item, label in written.select("request", "item", "label").iter_rows():
        right = requests.target_rows[request].tolist()
        assert label == (requests.grades[request][right.index(item)] if item in right else 0)
    assert (written["label"] == 2).any()


def test_nobody_is_offered_what_he_had(opened, written):
    requests = join_requests([one for _, one in candidate_requests(opened.data, ["next_item", "query_to_item"])])
    offered = {key[0]: set(rows["item"]) for key, rows in written.group_by("request")}
    assert not any(
        offered[number] & set(seen.tolist()) for number, seen in enumerate(seen_items(opened.data, requests))
    )


def test_the_same_inputs_give_the_same_bytes_and_are_not_made_twice(opened, tmp_path, monkeypatch):
    one, two = (write_candidates(opened, tmp_path / name, top_k=5, overwrite=False, part=16) for name in ("one", "two"))
    assert one == two
    first = contents(tmp_path / "one")
    assert {**first, "source.json": b""} == {**contents(tmp_path / "two"), "source.json": b""}
    monkeypatch.setattr("recsys.retrieval.candidates.embed_items", pytest.fail)
    assert write_candidates(opened, tmp_path / "one", top_k=5, overwrite=False, part=16) == one
    assert contents(tmp_path / "one") == first


def test_a_run_that_broke_off_goes_on(opened, tmp_path):
    write_candidates(opened, tmp_path / "whole", top_k=5, overwrite=False, part=16)
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    for name in ("source.json", "part-00001.parquet", "user_vectors.npy"):
        (tmp_path / "broken" / name).unlink()
    write_candidates(opened, tmp_path / "broken", top_k=5, overwrite=False, part=16)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_other_inputs_are_refused_unless_they_may_be_overwritten(opened, tmp_path):
    write_candidates(opened, tmp_path, top_k=5, overwrite=False)
    with pytest.raises(InputError, match=r"made from other inputs.*--overwrite=true"):
        write_candidates(opened, tmp_path, top_k=6, overwrite=False)
    write_candidates(opened, tmp_path, top_k=6, overwrite=True)
    assert json.loads((tmp_path / "source.json").read_text())["top_k"] == 6


def test_the_pruner_reads_what_was_written(opened, journey):
    lists = CandidateLists.read(journey.folder / "runs/infer/candidates", opened.data)
    np.testing.assert_array_equal(lists.item_vectors, embed_items(opened))
    assert list(lists.sets) == ["second", "valid", "valid_query"]


def test_candidates_that_no_pruner_could_learn_from_are_refused(journey, tmp_path):
    options = ["--data.split.second=0", "--data.tables={queries: '', relevance: ''}"]
    config = journey.infer(*options, output=tmp_path)
    with pytest.raises(InputError, match=r"No row is kept for a pruner.*data\.split\.second"):
        write_candidates(OpenRetriever.open(Path(config.retriever), config.data), tmp_path, top_k=5, overwrite=False)
    assert not list(tmp_path.iterdir())


def test_the_folder_of_another_kind_of_run_is_refused(opened, tmp_path):
    shutil.copytree(opened.folder, tmp_path / "model")
    moved = replace(opened, folder=tmp_path / "model")
    with pytest.raises(InputError, match="names no tasks"):
        write_candidates(moved, tmp_path / "candidates", top_k=5, overwrite=False)


def test_each_request_is_listed_the_best_of_what_is_allowed_for_it(opened):
    items = embed_items(opened)
    index, rng = ItemIndex.build(opened.vectors(items)), np.random.default_rng(0)
    requests = user_requests(opened.data, VALID)
    allowed = Allowed(
        group=rng.integers(0, 3, len(requests)), masks=rng.random((3, len(items))) < [[0.9], [0.5], [0.1]]
    )
    found = retrieve(opened, index, items, requests, TOP, allowed=allowed)
    for row, seen in enumerate(seen_items(opened.data, requests)):
        left = np.setdiff1d(np.flatnonzero(allowed.masks[allowed.group[row]]), seen)
        best = left[np.argsort(-(opened.vectors(items)[left] @ found.users[row]), kind="stable")][:TOP]
        assert found.items[row, : len(best)].tolist() == best.tolist()
        assert (found.items[row, len(best) :] == -1).all()
