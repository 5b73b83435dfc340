"""Every source through the whole cascade: used, never from the future; what is missing takes the missing path."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from recsys.cli import main
from recsys.config import parse_run
from recsys.data.features import HIDEABLE
from recsys.data.requests import user_requests
from recsys.data.sources.shop import write_shop
from recsys.data.split import VALID
from recsys.errors import InputError
from recsys.recommend.cascade import Cascade
from recsys.recommend.counterfactual import Counterfactuals
from recsys.recommend.deletions import Asked, Unit
from recsys.recommend.recommender import Recommender
from recsys.recommend.settings import InferRun
from recsys.recommend.words import Words

ROLES = {
    "items": {"text": ["title"], "category": ["category"], "number": ["price"], "image": "image"},
    "users": {"category": ["age", "region"]},
    "interactions": {"event": "event", "target_events": ["purchase"], "context": ["page", "device"]},
    "queries": {"user": "user_id", "order": "timestamp"}, "relevance": {"grade": "grade"},
    "reviews": {"rating": "rating"}, "ads": {"impressions": "impressions", "clicks": "clicks"},
    "split": {"by": "last", "second": 1},
}  # fmt: skip
TEXT = {"model": "config:", "mode": "full", "layers": 1, "width": 16, "heads": 2, "max_tokens": 16, "vocab": 300}
IMAGE = {"model": "config:", "mode": "full", "pixels": 16, "layers": 1, "width": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny shop, a retriever and a pruner that read all of its sources, and the lists of an inference run."""
    folder = tmp_path_factory.mktemp("sources")
    write_shop(folder / "tables", size=60)
    runs, train = f"{folder}/runs", {"loader": {"batch_size": 16}, "trainer": {"accelerator": "cpu", "threads": 1}}
    frozen = {"mode": "frozen", "layers": 1}
    write(folder, "retriever", **train, optim={"epochs": 1, "lr": 0.003}, tasks=["next_item"],
          model={"text": TEXT, "image": IMAGE, "width": 16, "hide": 0.2, "id_vector": False,
                 "history": {"layers": 1, "heads": 2}}, negatives={"kind": "batch", "random": 16})  # fmt: skip
    write(folder, "pruner", **train, optim={"epochs": 1, "lr": 0.003}, candidates=f"{runs}/infer/candidates",
          model={"text": {**frozen, "model": f"{runs}/retriever/model/text", "max_tokens": 16},
                 "image": {"model": f"{runs}/retriever/model/image", "pixels": 16}, "fusion": "gated", "hide": 0.2,
                 "width": 16, "layers": 1, "heads": 2, "history": 8})  # fmt: skip
    write(folder, "infer", retriever=f"{runs}/retriever", pruner=f"{runs}/pruner", candidates=20, threads=1, samples=1)
    for command in ("train retriever", "infer candidates infer", "train pruner", "infer recommend infer"):
        *words, name = command.split()
        assert main([*words, f"{folder}/{name}.yaml"]) == 0
    return folder


def write(folder: Path, task: str, **values: object) -> None:
    history = {"max_items": 20, **({"until": "valid"} if task == "infer" else {})}
    data = {**ROLES, "root": f"{folder}/tables", "cache": f"{folder}/cache", "history": history}
    content = {"task": task, "name": task, "runs": f"{folder}/runs", "data": data, **values}
    (folder / f"{task}.yaml").write_text(yaml.safe_dump(content))


def opened(folder: Path, *overrides: str, hidden: tuple[str, ...] = ()) -> Cascade:
    one = parse_run(InferRun, [f"{folder}/infer.yaml", *overrides])
    return Cascade.open(one.retriever, one.pruner, one.data, 60, one.decision, hidden=hidden)


def judged(cascade: Cascade) -> tuple[np.ndarray, np.ndarray]:
    """Logits and the retriever's scores, [R, N], of all items for some valid users, by item; 0 for what they own."""
    requests = user_requests(cascade.data, VALID).take(np.arange(12))
    found, logits = cascade.judge(requests)
    assert logits is not None
    place, real = np.argsort(found.items, axis=1), found.items >= 0
    values = (np.where(real, one, 0.0) for one in (logits, found.scores))
    logits, scores = (np.take_along_axis(one, place, 1) for one in values)
    return logits, scores


def changed(folder: Path, tmp_path: Path, table: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> list[str]:
    """Overrides that put a changed table in the place of one."""
    change(pl.read_parquet(folder / f"tables/{table}.parquet")).write_parquet(tmp_path / f"{table}.parquet")
    return [f"--data.tables={json.dumps({table: str(tmp_path / f'{table}.parquet')})}", f"--data.cache={tmp_path}"]


def gone(table: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """What a user's own table is like without the source."""
    columns = {"users": ("age", "region"), "items": ("image",)}[table]
    return lambda rows: rows.with_columns(pl.lit(None, pl.String).alias(name) for name in columns)


@pytest.mark.parametrize(("source", "table"), [("image", "items"), ("profile", "users")])
def test_a_table_without_a_source_scores_as_with_the_source_hidden(folder, tmp_path, source, table):
    hidden = judged(opened(folder, hidden=(source,)))
    missing = judged(opened(folder, *changed(folder, tmp_path, table, gone(table))))
    for one, other in zip(hidden, missing, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("source", ["reviews", "ads"])
def test_a_config_without_notes_scores_as_with_them_hidden(folder, source):
    hidden = judged(opened(folder, hidden=(source,)))
    missing = judged(opened(folder, f"--data.{source}=null"))
    np.testing.assert_allclose(hidden[0], missing[0], atol=1e-6)


@pytest.mark.parametrize("source", HIDEABLE)
def test_every_source_is_used(folder, source):
    whole, without = judged(opened(folder)), judged(opened(folder, hidden=(source,)))
    assert np.abs(whole[0] - without[0]).max() > 1e-5


@pytest.mark.parametrize("table", ["reviews", "ads"])
def test_what_is_said_after_the_moment_changes_nothing(folder, tmp_path, table):
    cascade = opened(folder)
    histories, requests = cascade.data.histories, user_requests(cascade.data, VALID).take(np.arange(12))
    moments = histories.order[requests.moments]
    first = int(moments.argmin())

    def twisted(rows: pl.DataFrame) -> pl.DataFrame:
        text = pl.when(pl.col("timestamp") >= moments[first]).then(pl.lit("bad bad bad")).otherwise(pl.col("text"))
        return rows.with_columns(text.alias("text"))

    plain, other = judged(cascade)[0], judged(opened(folder, *changed(folder, tmp_path, table, twisted)))[0]
    np.testing.assert_allclose(other[first], plain[first], atol=1e-6)
    assert np.abs(other - plain).max() > 1e-5  # what the others read has changed


def test_ablate_hides_each_source_and_tells_what_is_lost(folder, capsys):
    assert main(["ablate", f"{folder}/runs/infer"]) == 0
    said = capsys.readouterr().out
    rows = json.loads((folder / "runs/infer/ablation.json").read_text())["rows"]
    assert [one["source"] for one in rows] == ["nothing", *HIDEABLE]
    assert all(source in said for source in HIDEABLE)
    stages = json.loads((folder / "runs/infer/results.json").read_text())["stages"]
    pruner = next(one["metrics"] for one in stages if one["name"] == "pruner")
    assert rows[0]["ndcg"] == pytest.approx(pruner["ndcg@10"], abs=1e-6)
    for one in rows[1:]:
        assert one["lost"]["mean"] == pytest.approx(rows[0]["ndcg"] - one["ndcg"], abs=1e-9)
        assert one["lost"]["low"] <= one["lost"]["mean"] <= one["lost"]["high"]
        assert one["oracle_lost"] is None or one["oracle_lost"] > 0
    assert {one["source"] for one in rows if one["oracle_lost"] is not None} == {*HIDEABLE}


def test_ablate_can_take_every_item_as_a_candidate(folder, capsys):
    assert main(["ablate", f"{folder}/runs/infer", "--all_items"]) == 0
    assert "nothing" in capsys.readouterr().out
    assert main(["ablate", f"{folder}/runs/infer", "--all_item"]) == 2
    assert "Did you mean '--all_items'" in capsys.readouterr().err
    assert main(["ablate", f"{folder}/tables"]) == 2
    assert "no run of infer" in capsys.readouterr().err


def test_single_requests_are_answered_from_all_sources_known_by_now(folder):
    shop = Recommender.load(folder / "runs/infer")
    found = shop.recommend(["i00001", "i00002"], context={"device": "phone"})
    assert len(found) == 10


def test_reviews_that_come_in_later_do_not_make_the_pruner_another_retrievers(folder, tmp_path):
    """Ages and ratings are scaled as the pruner learnt them; the tables' own span has grown."""

    def grown(rows: pl.DataFrame) -> pl.DataFrame:
        later = rows.head(3).with_columns(pl.col("timestamp") * 0 + rows["timestamp"].max() + 10**8)
        return pl.concat([rows, later])

    plain, other = judged(opened(folder))[0], judged(opened(folder, *changed(folder, tmp_path, "reviews", grown)))[0]
    np.testing.assert_allclose(other, plain, atol=1e-6)


def test_what_an_ad_will_have_been_clicked_is_not_known(folder, tmp_path):
    cascade = opened(folder)
    histories, requests = cascade.data.histories, user_requests(cascade.data, VALID).take(np.arange(12))
    moments = histories.order[requests.moments]
    first = int(moments.argmin())
    ads = cascade.data.tables.ads
    running = ads.filter(pl.col("timestamp") < moments[first]).group_by("item_id").agg(pl.col("timestamp").max())

    def twisted(rows: pl.DataFrame) -> pl.DataFrame:
        last = rows.join(running.rename({"timestamp": "__last"}), on="item_id", how="left", maintain_order="left")
        clicks = pl.when(pl.col("timestamp") >= pl.col("__last").fill_null(0)).then(0).otherwise(pl.col("clicks"))
        return last.with_columns(clicks.alias("clicks")).drop("__last")

    other = judged(opened(folder, *changed(folder, tmp_path, "ads", twisted)))[0]
    np.testing.assert_allclose(other[first], judged(cascade)[0][first], atol=1e-6)


def test_notes_with_other_numbers_beside_them_are_refused(folder):
    with pytest.raises(InputError, match=r"1 numbers beside each of data\.reviews; this config names 0"):
        opened(folder, "--data.reviews.rating=null")


def test_given_candidates_are_rated_as_if_they_had_been_proposed(folder):
    cascade = opened(folder)
    requests = user_requests(cascade.data, VALID).take(np.arange(5))
    found, logits = cascade.judge(requests)
    real = int((found.items >= 0).sum(1).min())
    places = np.random.default_rng(0).permuted(np.tile(np.arange(real), (5, 1)), axis=1)
    shuffled = found.items.copy()
    shuffled[:, :real] = np.take_along_axis(found.items[:, :real], places, 1)
    expected = logits.copy()
    expected[:, :real] = np.take_along_axis(logits[:, :real], places, 1)
    np.testing.assert_allclose(cascade.rate(requests, shuffled), expected, rtol=1e-4, atol=1e-4)


def test_other_lists_take_away_what_was_measured_on_the_last_ones(folder):
    path = folder / "runs/infer/ablation.json"
    path.write_text("{}")
    assert main(["infer", "recommend", f"{folder}/infer.yaml"]) == 0
    assert path.exists()  # the lists are there, and stay
    assert main(["infer", "recommend", f"{folder}/infer.yaml", "--candidates=21", "--overwrite=true"]) == 0
    assert not path.exists()


@pytest.mark.parametrize("source", ["reviews", "ads"])
def test_what_is_said_of_a_candidate_is_taken_from_it_as_from_all(folder: Path, source: str) -> None:
    """A piece of evidence that is taken away is missing in the way that the ablation knows."""
    whole, hidden = opened(folder), opened(folder, hidden=(source,))
    requests = user_requests(whole.data, VALID).take(np.arange(6))
    without = Counterfactuals(whole, requests, Words())
    items = without.found.items[:, :8]
    asked = [Asked(row, int(item), frozenset({Unit.source(source)})) for row, own in enumerate(items) for item in own]
    found, logits = hidden.judge(requests)
    plain = [logits[row, np.flatnonzero(found.items[row] == item)[0]] for row, own in enumerate(items) for item in own]
    np.testing.assert_allclose(without.scores(asked), plain, rtol=1e-4, atol=1e-5)
    assert np.abs(without.scores(asked) - without.scores([Asked(one.request, one.item) for one in asked])).max() > 1e-5


def test_a_picture_is_taken_from_one_item_alone(folder: Path) -> None:
    whole = opened(folder)
    without = Counterfactuals(whole, user_requests(whole.data, VALID).take(np.arange(2)), Words())
    first, second = without.found.items[0, :2].tolist()
    base = without.scores([Asked(0, first), Asked(0, second)])
    changed = without.scores([Asked(0, first, frozenset({Unit.source("image")})), Asked(0, second)])
    assert abs(changed[0] - base[0]) > 1e-6
    assert changed[1] == pytest.approx(base[1], abs=1e-6)
