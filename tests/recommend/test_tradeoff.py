"""The price of diversity: the models' own lists are what the run writes, and the marked setting is the cheapest."""

import json
from dataclasses import replace

import numpy as np
import pytest

from recsys.cli import main
from recsys.errors import InputError
from recsys.metrics.bootstrap import Interval
from recsys.recommend.exposure import ExposureConfig
from recsys.recommend.rerank import RerankConfig
from recsys.recommend.run import run_stage
from recsys.recommend.tradeoff import Point, Setting, Tradeoff, draw_tradeoff, gather, listed, settings
from recsys.results import read_results


def test_the_first_point_is_what_the_run_measured(journey, tmp_path):
    config = journey.infer(output=tmp_path)
    run_stage("recommend", config)
    measured = {one["name"]: one["metrics"] for one in read_results(config.folder)["stages"]}["pruned lists"]
    first = draw_tradeoff(config, {}).points[0]
    for name in ("ndcg@10", "coverage@10", "gini@10", "novelty@10"):
        assert first.measures[name].mean == pytest.approx(measured[name], abs=1e-9)
    assert first.measures["loss"] == Interval(mean=0, low=0, high=0)


def test_exposures_have_the_shares_that_their_setting_says(served):
    pool = gather(served, "valid")
    config = RerankConfig(exposure=ExposureConfig(least={"torso": 0.5}))
    lists = listed(served, pool, Setting(way="exposure", strength=1.0, config=config))
    segments = served.reranked_by(config).reranker.segments
    assert (segments[lists] == 1).mean() >= 0.5
    assert all(set(row) <= set(pool.items[at]) for at, row in enumerate(lists.tolist()))


def test_fewer_users_are_drawn_where_that_is_said(served):
    assert len(gather(served, "valid", most=15).items) == 15
    assert len(gather(served, "valid").items) == 40


def test_every_way_is_tried_and_no_exposure_beyond_what_there_is(served):
    pool = gather(served, "valid")
    tried = settings(served, pool.items[:, :10])
    ways = {"mmr", "dpp", "xquad", "calibration", "exposure", "tail", "tail in 5 bands"}
    assert {one.way for one in tried} == ways
    assert all(sum(one.config.exposure.least.values()) <= 1 for one in tried if one.config.exposure)


def test_the_marked_setting_has_what_is_wanted_at_the_least_loss():
    def point(ndcg: float, tail: float) -> Point:
        values = {"ndcg@10": ndcg, "tail@10": tail}
        return Point(way="x", strength=0, measures={k: Interval(mean=v, low=v, high=v) for k, v in values.items()})

    points = [point(0.5, 0.1), point(0.4, 0.3), point(0.45, 0.35), point(0.2, 0.6)]
    found = Tradeoff(group="valid", requests=1, candidates=5, wanted={"tail@10": 0.3}, points=points)
    assert found.marked == 2
    assert replace(found, wanted={"tail@10": 0.7}).marked is None
    assert replace(found, wanted={}).marked is None


def test_the_command_writes_a_table_a_picture_and_a_section_of_the_page(journey, tmp_path, capsys):
    config = journey.infer(output=tmp_path)
    run_stage("recommend", config)
    assert main(["tradeoff", str(config.folder), "--non_head=0.3"]) == 0
    said = capsys.readouterr().out
    assert "xquad 0.1" in said
    assert "non_head@10 of at least 0.3" in said
    assert (config.folder / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads((config.folder / "tradeoff.json").read_text())
    assert told["wanted"] == {"non_head@10": 0.3}
    assert np.isfinite([point["measures"]["ndcg@10"]["low"] for point in told["points"]]).all()
    assert main(["report", str(config.folder)]) == 0
    assert "What diversity costs" in (config.folder / "report.html").read_text()


def test_what_is_no_share_and_what_is_no_run_are_refused(journey, tmp_path, capsys):
    assert main(["tradeoff", str(tmp_path)]) == 2
    assert "is no run of infer" in capsys.readouterr().err
    (tmp_path / "infer.yaml").touch()
    assert main(["tradeoff", str(tmp_path), "--tail=many"]) == 2
    assert "expected a share of the places" in capsys.readouterr().err
    assert main(["tradeoff", str(tmp_path), "--users=0"]) == 2
    assert "expected a number of users" in capsys.readouterr().err
    with pytest.raises(InputError, match="expected valid or test"):
        draw_tradeoff(journey.infer("--data.history.until=null", output=tmp_path), {})
