"""A journey with a lexical source: candidates, a pruner that learns from them, search; and what each source finds."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.config import parse_run
from recsys.data.lists import CandidateLists
from recsys.data.requests import query_requests, validation_requests
from recsys.data.split import VALID
from recsys.models.checkpoint import load_pruner
from recsys.recommend.cascade import Cascade
from recsys.recommend.recommender import Recommender
from recsys.recommend.run import run_stage
from recsys.recommend.settings import InferRun
from recsys.recommend.sources import evaluate_candidates, evaluate_lexical
from recsys.results import read_results
from recsys.retrieval.lexical import LexicalConfig, LexicalIndex
from recsys.training.pruner_run import PrunerRun, train_pruner

LEXICAL = ("--lexical.candidates=15", "--lexical.weight=null")


@pytest.fixture(scope="module")
def made(journey, tmp_path_factory) -> Path:
    """Fused candidates in RUNS/infer and a pruner that has learnt from them in RUNS/pruner."""
    runs = tmp_path_factory.mktemp("lexical")
    run_stage("candidates", journey.infer(*LEXICAL, output=runs))
    options = [f"--runs={runs}", f"--candidates={runs}/infer/candidates"]
    train_pruner(parse_run(PrunerRun, [str(journey.config("pruner")), *options]))
    return runs


def lists(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(sorted(folder.glob("part-*.parquet")))


def stages(folder: Path) -> dict[str, dict[str, float]]:
    return {stage["name"]: stage["metrics"] for stage in read_results(folder)["stages"]}


def open_cascade(one: InferRun) -> Cascade:
    return Cascade.open(one.retriever, one.pruner, one.data, one.candidates, one.decision, one.lexical)


def test_the_sources_stand_side_by_side_also_after_the_lists_were_measured(journey, made):
    wanted = ["retriever, valid_query", "BM25, valid_query", "hybrid, valid_query"]
    found = stages(made / "infer")
    assert list(found) == wanted
    assert found[wanted[0]] == stages(journey.folder / "runs/retriever")[wanted[0]]
    assert len({metrics["queries"] for metrics in found.values()}) == 1
    run_stage("recommend", journey.infer(*LEXICAL, f"--pruner={made}/pruner", output=made))
    later = stages(made / "infer")
    assert {name: later[name] for name in wanted} == found
    assert "pruned lists" in later


def test_without_a_lexical_source_candidates_leave_no_results(journey, tmp_path):
    run_stage("candidates", journey.infer(output=tmp_path))
    assert not (tmp_path / "infer/results.json").exists()


def test_rows_of_the_sources_are_what_plain_counting_gives(served, made):
    data = served.data
    requests, lexical = validation_requests(data, ["query_to_item"])["valid_query"], LexicalConfig()
    index = LexicalIndex(data.catalogue.texts, lexical)
    ranked = [items[items >= 0] for items in index.search([data.queries.texts[row] for row in requests.queries], 60)[0]]
    candidates = CandidateLists.read(made / "infer/candidates", data)
    fused = candidates.table(candidates.sets["valid_query"])[0]
    both = (evaluate_lexical(index, data, requests), ranked), (evaluate_candidates(candidates, data), fused)
    for found, proposed in both:
        hits = [np.isin(right, own[:10]).mean() for right, own in zip(requests.target_rows, proposed, strict=True)]
        first = [np.flatnonzero(np.isin(own, right)) for right, own in zip(requests.target_rows, proposed, strict=True)]
        assert found["recall@10"] == pytest.approx(np.mean(hits))
        assert found["mrr"] == pytest.approx(np.mean([1 / (1 + place[0]) if len(place) else 0 for place in first]))
        assert found["queries"] == (data.queries.stage == VALID).sum()


def test_a_pruner_learns_from_the_lexical_scores_of_the_candidates(served, made):
    candidates = CandidateLists.read(made / "infer/candidates", served.data)
    numbers = candidates.sets["valid_query"]
    items, *_ = candidates.table(numbers)
    texts = [served.data.queries.texts[row] for row in candidates.requests.queries[numbers]]
    wanted = np.take_along_axis(LexicalIndex(served.data.catalogue.texts, LexicalConfig()).scores(texts), items, 1)
    np.testing.assert_array_equal(candidates.lexical_table(numbers), wanted)
    assert not candidates.lexical_table(candidates.sets["valid"]).any()
    assert load_pruner(made / "pruner/model").weights.detach()[2] != 0


def test_lists_score_what_the_pruners_trainer_said_of_the_fused_candidates(journey, made):
    cascade = open_cascade(journey.infer(*LEXICAL, f"--pruner={made}/pruner", output=made))
    requests = validation_requests(cascade.data, ["query_to_item"])["valid_query"]
    lists = cascade.recommend(requests).items
    hits = [np.isin(right, own[:10]).mean() for right, own in zip(requests.target_rows, lists, strict=True)]
    assert stages(made / "pruner")["pruner, valid_query"]["recall@10"] == pytest.approx(np.mean(hits))


def test_a_search_from_python_equals_the_stage_search(journey, made, capsys):
    config = journey.infer(*LEXICAL, f"--pruner={made}/pruner", f"--output={made}/found", output=made)
    frame = lists(run_stage("search", config))
    assert "has learnt from lists" not in capsys.readouterr().err
    shop = Recommender.load(made / "infer")
    assert shop.cascade.hybrid is not None
    assert shop.cascade.hybrid.settings == json.loads((made / "infer/candidates/source.json").read_text())["lexical"]
    text = shop.cascade.data.queries.texts[2]  # a query of nobody known
    own = frame.filter(pl.col("query_id") == 2)
    assert [one.item_id for one in shop.search(text)] == own["item_id"].to_list()
    fused = [one.retriever_score for one in shop.search(text)]
    np.testing.assert_allclose(fused, own["retriever_score"].to_numpy(), rtol=1e-3, atol=1e-4)


def test_users_lists_are_those_without_a_lexical_source(journey, tmp_path):
    plain, lexical = (
        run_stage("recommend", journey.infer(*options, output=tmp_path / name))
        for name, options in {"plain": (), "lexical": LEXICAL}.items()
    )
    assert (plain / "part-00000.parquet").read_bytes() == (lexical / "part-00000.parquet").read_bytes()
    assert (plain / "manifest.json").read_bytes() == (lexical / "manifest.json").read_bytes()


def test_a_pruner_that_has_learnt_from_other_lists_is_told_of(journey, made, tmp_path, capsys):
    run_stage("search", journey.infer(f"--pruner={made}/pruner", output=tmp_path / "one"))
    assert "has learnt from lists made with lexical: {" in capsys.readouterr().err
    run_stage("search", journey.infer("--lexical.fuse=rank", output=tmp_path / "two"))
    said = capsys.readouterr().err
    assert "has learnt from lists made with no lexical source; here there is lexical: {" in said
    run_stage("search", journey.infer(output=tmp_path / "three"))
    assert "has learnt" not in capsys.readouterr().err


def test_a_search_of_another_fusion_is_another_output(journey, served):
    one = journey.infer("--lexical.fuse=rank", output=journey.folder / "unused")
    fused = open_cascade(one)
    assert fused.made_from != served.made_from
    requests = query_requests(fused.data, np.arange(20))
    found, plain = (cascade.recommend(requests).candidates for cascade in (fused, served))
    assert (found != plain).any()
