"""A pruner without candidates: every row of the interactions is a right or a wrong answer."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.cli import main
from recsys.data.datamodule import LoaderConfig
from recsys.data.features import Features, Texts
from recsys.data.lists import CandidateLists
from recsys.data.prepare import prepare
from recsys.data.requests import request_pasts
from recsys.data.split import VALID
from recsys.errors import InputError
from recsys.models.checkpoint import load_pruner
from recsys.models.pruner import PrunerConfig
from recsys.recommend.judge import ablate_judged
from recsys.recommend.score import score_candidates
from recsys.recommend.settings import InferRun
from recsys.tables import DataConfig, InteractionsConfig, ItemsConfig, SplitConfig, UsersConfig, validate
from recsys.training.optim import OptimConfig
from recsys.training.plan import overfit
from recsys.training.pruner import LossMix
from recsys.training.pruner_run import PrunerRun, open_training, train_pruner
from recsys.training.retriever_run import RetrieverRun
from recsys.training.run import TrainerConfig

USERS, ITEMS = 40, 24
LIKED = ["4", "5"]


def tables(folder: Path) -> DataConfig:
    """Every user likes one of three kinds, which only the ratings tell; several share a time; any row is valid."""
    rng = np.random.default_rng(0)
    kind, taste = np.arange(ITEMS) % 3, rng.integers(0, 3, USERS)
    user = np.repeat(np.arange(USERS), ITEMS)
    item = np.concatenate([rng.permutation(ITEMS) for _ in range(USERS)])
    rating = np.where(kind[item] == taste[user], rng.integers(4, 6, len(user)), rng.integers(1, 4, len(user)))
    frames = {
        "items": {"item_id": np.arange(ITEMS), "title": [f"film {one}" for one in range(ITEMS)], "kind": kind},
        "users": {"user_id": np.arange(USERS)},
        "interactions": {
            "user_id": user, "item_id": item, "timestamp": np.tile(np.arange(ITEMS) // 3, USERS), "rating": rating,
            "split": rng.choice(["train", "train", "train", "valid"], len(user)),
        },
    }  # fmt: skip
    folder.mkdir()
    for name, columns in frames.items():
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
    return DataConfig(
        root=str(folder), cache=str(folder / "cache"), items=ItemsConfig(text=["title"], category=["kind"]),
        users=UsersConfig(), split=SplitConfig(by="column"),
        interactions=InteractionsConfig(event="rating", target_events=LIKED, judged=True),
    )  # fmt: skip


def run_of(config: DataConfig, folder: Path, **changes) -> PrunerRun:
    values = {
        "task": "pruner", "name": "small", "runs": str(folder / "runs"), "data": config,
        "model": PrunerConfig(width=16, layers=1, heads=2, history=12), "calibrate": 0.2,
        "loss": LossMix(listwise=0.0, pointwise=1.0), "loader": LoaderConfig(batch_size=32),
        "optim": OptimConfig(epochs=15, lr=6e-3), "trainer": TrainerConfig(accelerator="cpu", threads=1), **changes,
    }  # fmt: skip
    return PrunerRun(**values)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> DataConfig:
    return tables(tmp_path_factory.mktemp("judged") / "tables")


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory) -> Path:
    return train_pruner(run_of(config, tmp_path_factory.mktemp("runs")))


def test_every_row_is_asked_about_once_and_is_right_where_it_is_a_target(config):
    data = prepare(config)
    lists, table = CandidateLists.judged(data), pl.read_parquet(Path(config.root) / "interactions.parquet")
    found = {
        (int(user), int(item)): (float(label), "valid" if number in lists.sets["valid"] else "train")
        for number, (user, item, label) in enumerate(zip(lists.requests.users, lists.item, lists.label, strict=True))
    }
    wanted = {
        (user, item): (float(rating >= 4), split)
        for user, item, rating, split in table.select("user_id", "item_id", "rating", "split").iter_rows()
    }
    assert found == wanted


def test_a_row_sees_what_was_strictly_before_it_and_nothing_of_a_later_split(config):
    data = prepare(config)
    lists, table = CandidateLists.judged(data), pl.read_parquet(Path(config.root) / "interactions.parquet")
    features = Features(data, Texts(), Texts(), max_items=100)
    time = {(user, item): at for user, item, at in table.select("user_id", "item_id", "timestamp").iter_rows()}
    for number, past in enumerate(request_pasts(features, lists.requests)):
        user, item = int(lists.requests.users[number]), int(lists.item[number])
        own = (pl.col("user_id") == user) & (pl.col("timestamp") < time[user, item])
        visible = table.filter(own if number in lists.sets["valid"] else own & (pl.col("split") == "train"))
        assert sorted(past.item.tolist()) == sorted(visible["item_id"].to_list())
        ratings = dict(visible.select("item_id", "rating").iter_rows())
        assert [data.codes.event[code - 1] for code in past.event] == [str(ratings[one]) for one in past.item]


def test_ratings_that_came_before_tell_what_is_liked(folder):
    (stage,) = json.loads((folder / "results.json").read_text())["stages"]
    assert stage["metrics"]["auc"] > 0.85
    assert stage["metrics"]["log_loss"] < 0.5


def test_the_exported_model_says_what_was_measured(config, folder):
    data, model = prepare(config), load_pruner(folder / "model")
    lists = CandidateLists.judged(data)
    rows, features = lists.sets["valid"], Features(data, Texts(), Texts(), max_items=100)
    logits = score_candidates(
        model, features, lists.requests.take(rows), lists.item[rows, None].astype(np.int64),
        np.zeros((len(rows), 1), dtype=np.float32), lists.item_vectors, lists.user_vectors[rows],
    )[..., 0]  # fmt: skip
    chance, right = model.probability(logits, np.array(False))[:, 0].astype(float), lists.label[rows] > 0
    measures = json.loads((folder / "results.json").read_text())["stages"][0]["metrics"]
    gaps = chance[right][:, None] - chance[~right][None]
    assert ((gaps > 0) + (gaps == 0) / 2).mean() == pytest.approx(measures["auc"], abs=1e-6)
    assert -np.log(np.where(right, chance, 1 - chance)).mean() == pytest.approx(measures["log_loss"], abs=1e-5)
    assert measures["rows"] == (data.histories.stage == VALID).sum()


def test_the_best_epoch_is_the_one_with_the_greatest_area_on_rows_that_are_held_out(config, tmp_path):
    folder = train_pruner(run_of(config, tmp_path, trainer=TrainerConfig(
        accelerator="cpu", threads=1, export="best",
    )))  # fmt: skip
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any("held_out/auc" in line and "valid/log_loss" in line for line in lines)


def test_a_batch_of_judgements_can_be_learnt_by_heart(config, tmp_path):
    items, users = replace(config.items, category=["kind", "item_id"]), UsersConfig(category=["user_id"])
    module, rows = open_training(run_of(replace(config, items=items, users=users), tmp_path))
    module.log = lambda *_, **__: None
    first, last = overfit(module, rows)
    assert last < 0.5 * first


def test_a_split_that_lies_anywhere_is_no_fault_where_rows_are_judged(config):
    assert not validate(config).errors


def test_each_source_is_hidden_in_turn_from_the_valid_rows(folder, capsys):
    whole, *others = ablate_judged(folder)
    measures = json.loads((folder / "results.json").read_text())["stages"][0]["metrics"]
    assert whole.auc == pytest.approx(measures["auc"], abs=1e-6)
    assert whole.log_loss == pytest.approx(measures["log_loss"], abs=1e-5)
    lost = {one.source: one.lost for one in others}
    assert list(lost) == ["history"]
    assert lost["history"].low > 0.1
    assert main(["ablate", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == ["nothing", f"{whole.auc:.4f}"]


def test_a_run_without_judgements_is_not_ablated_so(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match=r"no run of infer .*, and no run of a pruner on judgements"):
        ablate_judged(tmp_path)


def test_other_targets_have_heads_and_probabilities_of_their_own(config, tmp_path):
    targets = {"seen": ["1", "2", "3", "4", "5"], "loved": ["5"], "hated": ["1", "2"]}
    model = PrunerConfig(width=16, layers=1, heads=2, history=12, targets=targets)
    folder = train_pruner(run_of(config, tmp_path, model=model))
    found = {one["name"]: one["metrics"] for one in json.loads((folder / "results.json").read_text())["stages"]}
    assert list(found) == ["pruner", "pruner: seen", "pruner: loved", "pruner: hated"]
    assert found["pruner"]["auc"] > 0.85
    data, pruner = prepare(config), load_pruner(folder / "model")
    lists, events = CandidateLists.judged(data), np.array(["", *data.codes.event])
    rows, features = lists.sets["valid"], Features(data, Texts(), Texts(), max_items=100)
    logits = score_candidates(
        pruner, features, lists.requests.take(rows), lists.item[rows, None].astype(np.int64),
        np.zeros((len(rows), 1), dtype=np.float32), lists.item_vectors, lists.user_vectors[rows],
    )  # fmt: skip
    assert logits.shape == (len(rows), 1, 4)
    chances, rating = (
        pruner.other_probabilities(logits[..., 1:])[:, 0],
        events[data.histories.event[lists.requests.moments[rows]]],
    )
    for place, name in ((1, "loved"), (2, "hated")):
        true, chance = np.isin(rating, targets[name]), chances[:, place].astype(float)
        assert found[f"pruner: {name}"]["auc"] > 0.7
        expected = -np.log(np.where(true, chance, 1 - chance)).mean()
        assert found[f"pruner: {name}"]["log_loss"] == pytest.approx(expected, abs=1e-5)
        assert abs(chance.mean() - true.mean()) < 0.1
    assert "auc" not in found["pruner: seen"]
    assert chances[:, 0].min() > 0.9  # everybody has rated what he was asked about


def test_a_target_of_an_unknown_event_is_refused(config, tmp_path):
    model = PrunerConfig(width=16, layers=1, heads=2, targets={"loved": ["55"]})
    with pytest.raises(InputError, match="loved names the event '55'; the events are 1, 2, 3, 4, 5"):
        train_pruner(run_of(config, tmp_path, model=model))


@pytest.mark.parametrize("wrong", [{"loved": []}, {"no name": ["5"]}])
def test_a_target_without_a_name_or_events_is_refused(wrong):
    with pytest.raises(InputError, match=r"model\.targets: expected"):
        PrunerConfig(targets=wrong)


def test_judgements_without_events_are_refused():
    with pytest.raises(InputError, match="set event and target_events"):
        InteractionsConfig(judged=True)


def test_a_pruner_has_candidates_or_judgements(cascade, tmp_path):
    with pytest.raises(InputError, match=r"name the folder of infer\.py candidates, or set"):
        train_pruner(run_of(cascade.config, tmp_path))


def test_judgements_are_learnt_by_a_pointwise_loss(config, tmp_path):
    with pytest.raises(InputError, match="a pointwise loss"):
        run_of(config, tmp_path, loss=LossMix(listwise=1.0, pointwise=0.0))


def test_judgements_are_no_data_for_a_retriever(config):
    with pytest.raises(InputError, match="for a pruner without candidates"):
        RetrieverRun(task="retriever", name="r", data=config, model=None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="for a pruner without candidates"):
        InferRun(task="infer", name="r", data=config, retriever="runs/r")
