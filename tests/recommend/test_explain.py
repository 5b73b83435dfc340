"""The stages explain and describe: what they write, that they write it once, and what they refuse."""

import json
import re

import polars as pl
import pytest

from recsys.errors import InputError
from recsys.recommend import explain
from recsys.recommend.explain import ExplainConfig
from recsys.recommend.run import run_stage
from recsys.results import read_results

QUICK = ("--explain.history=4", "--explain.words=2", "--explain.tested=0")


def parts(folder) -> pl.DataFrame:
    return pl.read_parquet(sorted(folder.glob("part-*.parquet")))


@pytest.fixture(scope="module")
def explained(journey, tmp_path_factory):
    """The lists of users and of searches, and their explanations."""
    place = tmp_path_factory.mktemp("explained")
    for stage in ("recommend", "search"):
        run_stage(stage, journey.infer(output=place))
    run_stage("explain", journey.infer(*QUICK, "--explain.tested=8", output=place))
    return place


def test_every_listed_item_has_evidence_and_a_sentence(explained):
    for lists, key, kind in (("recommendations", "user_id", "user"), ("results", "query_id", "query")):
        frame = parts(explained / "infer" / "explanations" / kind)
        assert frame.columns == [key, "rank", "item_id", "evidence", "reason", "written_by", "refused"]
        wanted = parts(explained / "infer" / lists).select(key, "rank", "item_id")
        assert frame.select(key, "rank", "item_id").equals(wanted)
        assert frame["reason"].str.len_chars().min() > 5
        assert frame["written_by"].unique().to_list() == ["template"]
        assert 5 <= frame["evidence"].list.len().max() <= 10
        for reason, evidence in frame.select("reason", "evidence").rows():
            quoted = re.findall(r"“([^”]*)”", reason)
            assert set(quoted) <= {piece["value"] for piece in evidence if piece["worth"] > 0}
        worths = frame["evidence"].list.eval(pl.element().struct.field("worth"))
        assert all(row == sorted(row, reverse=True) for row in worths.to_list())


def test_results_tell_how_many_and_whether_the_evidence_was_faithful(explained):
    told = read_results(explained / "infer")["explanations"]
    assert told["user"]["recommendations"] == 400
    assert told["query"]["written_by"] == {"template": 200}
    rows = {(row["pieces"], row["by"]): row for row in told["user"]["faithfulness"]}
    assert set(rows) >= {("all", "leave-one-out"), ("history", "attention"), ("words", "gradients")}
    for way in ("deletion", "insertion"):
        assert rows["all", "leave-one-out"][way]["gap"]["mean"] > 0
        assert rows["all", "leave-one-out"][way]["recommendations"] == 8


def test_the_sampled_lists_have_their_reasons_for_the_page(explained):
    told = json.loads((explained / "infer" / "reasons.json").read_text())["users"]
    shown = json.loads((explained / "infer" / "samples.json").read_text())["users"]
    assert len(told) == sum(len(user["recommendations"]) for user in shown)
    assert all(one["words"] for one in told)


def test_a_part_is_never_made_twice(explained, journey, monkeypatch):
    def fail(*_):
        raise AssertionError("made again")

    before = parts(explained / "infer" / "explanations" / "user")
    monkeypatch.setattr(explain._Stage, "_part", fail)
    run_stage("explain", journey.infer(*QUICK, "--explain.tested=8", output=explained))
    assert parts(explained / "infer" / "explanations" / "user").equals(before)


def test_a_lost_part_is_made_again_and_the_same(explained, journey):
    home = explained / "infer" / "explanations" / "user"
    before = parts(home)
    (home / "part-00001.parquet").unlink()
    run_stage("explain", journey.infer(*QUICK, "--explain.tested=8", output=explained))
    assert parts(home).equals(before)


def test_explaining_otherwise_wants_another_place(explained, journey):
    with pytest.raises(InputError, match="made from other inputs"):
        run_stage("explain", journey.infer(*QUICK, "--explain.evidence=2", output=explained))


def test_a_run_without_lists_is_refused(journey, tmp_path):
    with pytest.raises(InputError, match="holds no finished lists"):
        run_stage("explain", journey.infer(*QUICK, output=tmp_path))


def test_lists_of_other_models_are_refused(journey, tmp_path):
    run_stage("recommend", journey.infer(output=tmp_path))
    with pytest.raises(InputError, match="do not propose"):
        run_stage("explain", journey.infer(*QUICK, "--candidates=3", output=tmp_path))


def test_items_are_described_from_their_rows(journey, tmp_path):
    folder = run_stage("describe", journey.infer(output=tmp_path))
    frame = parts(folder)
    assert frame.columns == ["item_id", "description", "description_by", "ad", "ad_by"]
    assert len(frame) == 60
    first = frame.row(0, named=True)
    assert first["description"].startswith("red thing 0. kind: kind 0; price: 0.")
    assert first["ad"].startswith("Just for you: red thing 0 - kind 0, ")


@pytest.mark.parametrize("values", [{"top": 0}, {"history": 0}, {"evidence": 0}, {"words": -1}, {"tested": -1}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(InputError, match="explain"):
        ExplainConfig(**values)
