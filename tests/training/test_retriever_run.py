"""A tiny demo shop through the whole of training: a two-layer BERT from scratch, both tasks, seconds."""

import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from recsys.config import TextConfig
from recsys.data import datamodule
from recsys.data.augment import AugmentConfig
from recsys.data.datamodule import LoaderConfig
from recsys.data.datasets import NegativesConfig, RetrieverRows
from recsys.data.mined import MineConfig
from recsys.data.prepare import prepare
from recsys.data.requests import evaluation_batch, validation_requests
from recsys.data.sampling import deal_batches
from recsys.data.sources.shop import write_shop
from recsys.errors import InputError
from recsys.models.checkpoint import load_retriever
from recsys.models.history import HistoryEncoderConfig
from recsys.models.towers import RetrieverConfig
from recsys.retrieval.mine import mine_round
from recsys.stopping import Interrupted, request
from recsys.tables.config import (
    DataConfig,
    HistoryConfig,
    InteractionsConfig,
    ItemsConfig,
    QueriesConfig,
    RelevanceConfig,
    SplitConfig,
    UsersConfig,
)
from recsys.training import retriever
from recsys.training.optim import OptimConfig
from recsys.training.retriever import LossConfig
from recsys.training.retriever_run import RetrieverRun, build, train_retriever, training_rows
from recsys.training.rounds import Mine
from recsys.training.run import TrainerConfig, open_run
from recsys.training.tracking import TrackConfig

TEXT = TextConfig(model="config:", mode="full", layers=2, width=16, heads=2, max_tokens=16, vocab=300)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder / "tables", size=60)
    return DataConfig(
        root=str(folder / "tables"), cache=str(folder / "cache"),
        items=ItemsConfig(text=["title"], category=["category", "brand"], number=["price"]),
        users=UsersConfig(category=["gender", "region"], number=["age"]),
        interactions=InteractionsConfig(event="event", target_events=["purchase"], context=["page"]),
        queries=QueriesConfig(user="user_id", order="timestamp"), relevance=RelevanceConfig(grade="grade"),
        split=SplitConfig(valid_queries=0.3), history=HistoryConfig(max_items=12, queries=True),
    )  # fmt: skip


def run_of(shop: DataConfig, folder: Path, **changes: Any) -> RetrieverRun:
    values = {
        "task": "retriever", "name": "tiny", "runs": str(folder), "data": shop, "tasks": ["next_item", "query_to_item"],
        "model": RetrieverConfig(text=TEXT, width=16, history=HistoryEncoderConfig(layers=1, heads=2, dropout=0.2)),
        "negatives": NegativesConfig(kind="batch", random=16), "augment": AugmentConfig(mask=0.2),
        "loader": LoaderConfig(batch_size=16), "optim": OptimConfig(epochs=2, lr=0.01),
        "trainer": TrainerConfig(accelerator="cpu", threads=1),
    }  # fmt: skip
    return RetrieverRun(**{**values, **changes})


def without_text(shop: DataConfig, folder: Path, **changes: Any) -> RetrieverRun:
    model = RetrieverConfig(width=16, history=HistoryEncoderConfig(layers=1, heads=2, dropout=0.2))
    data = replace(shop, history=HistoryConfig(max_items=12))
    changes = {"negatives": NegativesConfig(kind="all"), "tasks": ["next_item"], **changes}
    return run_of(data, folder, model=model, **changes)


@pytest.fixture(scope="module")
def trained(shop: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> RetrieverRun:
    config = run_of(shop, tmp_path_factory.mktemp("runs"))
    assert train_retriever(config) == config.folder
    return config


def stages(config: RetrieverRun) -> dict[str, dict[str, float]]:
    found = json.loads((config.folder / "results.json").read_text())["stages"]
    return {stage["name"]: stage["metrics"] for stage in found}


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- a whole run


def test_a_run_leaves_its_folder(trained: RetrieverRun) -> None:
    files = {str(path.relative_to(trained.folder)) for path in trained.folder.rglob("*") if path.is_file()}
    assert files >= {
        "config.yaml", "versions.json", "metrics.jsonl", "results.json", "checkpoints/best.ckpt",
        "checkpoints/last.ckpt", "model/config.json", "model/model.safetensors", "model/codes.json",
        "model/text/config.json", "model/text/model.safetensors", "model/text/tokenizer.json",
    }  # fmt: skip
    versions = json.loads((trained.folder / "versions.json").read_text())
    assert versions["data"] == prepare(trained.data).hash
    assert versions["trained_weights"] == versions["weights"] - 1  # the temperature is fixed


def test_the_loss_falls(shop: DataConfig, tmp_path: Path) -> None:
    config = without_text(shop, tmp_path, optim=OptimConfig(epochs=6, lr=0.01))
    train_retriever(config)
    losses = [line["train/loss"] for line in lines(config.folder / "metrics.jsonl") if "train/loss" in line]
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("clip", [0.001, 0.0])
def test_half_precision_trains_with_and_without_clipping(shop: DataConfig, tmp_path: Path, clip: float) -> None:
    optim = OptimConfig(epochs=1, lr=0.01, text_lr=0.01, clip=clip)
    config = run_of(shop, tmp_path, optim=optim)
    train_retriever(replace(config, trainer=replace(config.trainer, precision="bf16-mixed")))
    assert np.isfinite(stages(config)["retriever, valid_query"]["ndcg@10"])


def test_a_run_says_how_fast_it_was(shop: DataConfig, tmp_path: Path) -> None:
    config = without_text(shop, tmp_path, loader=LoaderConfig(batch_size=2), optim=OptimConfig(epochs=3))
    train_retriever(config)
    speed = json.loads((config.folder / "results.json").read_text())["speed"]
    assert speed.keys() == {"rows_per_s", "tokens_per_s", "mfu", "data_wait"}
    assert speed["tokens_per_s"] > speed["rows_per_s"] > 0
    assert 0 < speed["mfu"] < 1
    assert 0 <= speed["data_wait"] < 1
    assert not any("mfu" in name for line in lines(config.folder / "metrics.jsonl") for name in line)


def test_nothing_is_said_that_a_user_can_do_nothing_about(
    shop: DataConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    train_retriever(without_text(shop, tmp_path))
    said = capfd.readouterr()
    assert [line.split()[0] for line in (said.out + said.err).splitlines()] == ["negatives:", "epoch", "epoch"]
    assert re.search(r"negatives: \d+ a row, of 60 items in the batch of 1 process", said.err)
    assert not [str(warning.message) for warning in recwarn]


@torch.no_grad()
def brute_force(config: RetrieverRun, name: str) -> tuple[float, float]:
    """Recall@10 and nDCG@10 of the exported model by a plain sort of all items, one request at a time."""
    data = prepare(config.data)
    features, *_ = build(config, data)
    model = load_retriever(config.folder / "model")
    vectors = model.encode_items(features.catalogue())
    recalls, ndcgs = [], []
    requests = validation_requests(data, config.tasks)[name]
    for number in range(len(requests)):
        batch = evaluation_batch(features, requests.take(np.array([number])))
        user = model.encode_users(batch.users, vectors)[0, batch.step[0]]
        scores = (vectors @ user).numpy()
        scores[batch.seen_item.numpy()] = -np.inf
        order = np.argsort(-scores, kind="stable")[:10].tolist()
        grade = {int(i): float(g) for i, g in zip(batch.targets[0], batch.grades[0], strict=True) if i >= 0 and g > 0}
        recalls.append(len(set(order) & grade.keys()) / len(grade))
        gains = [(2 ** grade.get(item, 0.0) - 1) / np.log2(place + 2) for place, item in enumerate(order)]
        ideal = sorted(grade.values(), reverse=True)[:10]
        ndcgs.append(sum(gains) / sum((2**g - 1) / np.log2(place + 2) for place, g in enumerate(ideal)))
    return float(np.mean(recalls)), float(np.mean(ndcgs))


@pytest.mark.parametrize(("name", "stage"), [("valid", "retriever"), ("valid_query", "retriever, valid_query")])
def test_the_figures_are_those_of_the_exported_model_by_brute_force(
    trained: RetrieverRun, name: str, stage: str
) -> None:
    figures = stages(trained)[stage]
    assert (figures["recall@10"], figures["ndcg@10"]) == pytest.approx(brute_force(trained, name), abs=1e-9)


def test_the_log_and_the_results_agree(trained: RetrieverRun) -> None:
    last = [line for line in lines(trained.folder / "metrics.jsonl") if "valid/ndcg@10" in line][-1]
    assert last["valid/ndcg@10"] == pytest.approx(stages(trained)["retriever"]["ndcg@10"], abs=1e-6)


# --- stopping and going on


def weights(config: RetrieverRun) -> dict[str, torch.Tensor]:
    return torch.load(config.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(autouse=True)
def signals_are_given_back() -> Iterator[None]:
    yield
    request.forget()


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The process gets Ctrl-C while it computes its `step`-th loss."""
    left, plain = [step], retriever.sampled_softmax

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(*args, **kwargs)

    monkeypatch.setattr(retriever, "sampled_softmax", counted)


def stop(config: RetrieverRun, monkeypatch: pytest.MonkeyPatch, steps: list[int], mine: Mine | None = None) -> None:
    """Interrupted in one step after the other, counted from where it went on."""
    for number, step in enumerate(steps):
        with monkeypatch.context() as patch:
            interrupt(patch, step)
            with pytest.raises(Interrupted, match=r"Go on with --resume=auto"):
                train_retriever(replace(config, resume=number > 0), mine)


def stop_and_go_on(
    config: RetrieverRun, monkeypatch: pytest.MonkeyPatch, steps: list[int], mine: Mine | None = None
) -> None:
    stop(config, monkeypatch, steps, mine)
    train_retriever(replace(config, resume=True), mine)


@pytest.mark.parametrize(
    ("steps", "trainer"),
    [
        pytest.param([3], {}, id="in the first epoch"),
        pytest.param([6, 13], {}, id="twice, in two epochs"),
        pytest.param([16], {}, id="in the last batch of an epoch"),
        pytest.param([5], {"accumulate": 2}, id="while gradients are summed"),
    ],
)
def test_a_stopped_and_resumed_run_is_equal_to_the_bit(
    shop: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[int], trainer: dict[str, int]
) -> None:
    settings = TrainerConfig(accelerator="cpu", threads=1, **trainer)
    track = TrackConfig(every=2)
    one, two = (without_text(shop, tmp_path / name, trainer=settings, track=track) for name in ("whole", "stopped"))
    train_retriever(one)
    stop_and_go_on(two, monkeypatch, steps)
    expected, found = weights(one), weights(two)
    assert [name for name, weight in expected.items() if not torch.equal(weight, found[name])] == []
    assert stages(one) == stages(two)
    assert lines(one.folder / "metrics.jsonl") == lines(two.folder / "metrics.jsonl")


def test_a_checkpoint_that_is_cut_is_skipped_for_the_one_before_it(
    shop: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainerConfig(accelerator="cpu", threads=1)
    one, two = (without_text(shop, tmp_path / name, trainer=settings) for name in ("whole", "cut"))
    train_retriever(one)
    stop(two, monkeypatch, [3, 4])
    last = two.folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"last\.ckpt is no whole checkpoint and was skipped"):
        train_retriever(replace(two, resume=True))
    expected, found = weights(one), weights(two)
    assert all(torch.equal(weight, found[name]) for name, weight in expected.items())
    assert lines(one.folder / "metrics.jsonl") == lines(two.folder / "metrics.jsonl")


def test_a_checkpoint_whose_line_was_lost_is_skipped_for_the_one_before_it(
    shop: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill between the two leaves it."""
    settings = {"trainer": TrainerConfig(accelerator="cpu", threads=1), "track": TrackConfig(every=1)}
    one, two = (without_text(shop, tmp_path / name, **settings) for name in ("whole", "lost"))
    train_retriever(one)
    stop(two, monkeypatch, [3, 4])
    log = two.folder / "metrics.jsonl"
    log.write_text("".join(f"{line}\n" for line in log.read_text().splitlines()[:-1]))
    with pytest.warns(UserWarning, match=r"last\.ckpt is newer than metrics\.jsonl"):
        train_retriever(replace(two, resume=True))
    assert lines(one.folder / "metrics.jsonl") == lines(two.folder / "metrics.jsonl")
    expected, found = weights(one), weights(two)
    assert all(torch.equal(weight, found[name]) for name, weight in expected.items())


def test_a_job_that_is_started_again_and_again_begins_goes_on_and_then_leaves_the_run_alone(
    shop: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = without_text(shop, tmp_path, resume="auto")
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        with pytest.raises(Interrupted):
            train_retriever(config)
    assert (config.folder / "STARTED").is_file()
    assert not (config.folder / "DONE").exists()
    train_retriever(config)
    assert (config.folder / "DONE").is_file()
    before = {path: path.stat().st_mtime_ns for path in config.folder.rglob("*")}
    assert train_retriever(config) == config.folder
    assert {path: path.stat().st_mtime_ns for path in config.folder.rglob("*")} == before
    with pytest.raises(InputError, match="started with another config"):
        train_retriever(replace(config, optim=OptimConfig(epochs=3)))


def test_resuming_a_finished_run_changes_nothing(shop: DataConfig, tmp_path: Path) -> None:
    config = without_text(shop, tmp_path)
    train_retriever(config)
    before, results = weights(config), stages(config)
    train_retriever(replace(config, resume=True))
    assert all(torch.equal(weight, before[name]) for name, weight in weights(config).items())
    assert stages(config) == results


def test_a_run_of_an_earlier_version_whose_config_lacks_a_key_goes_on_with_its_default(
    shop: DataConfig, tmp_path: Path
) -> None:
    config = without_text(shop, tmp_path, resume="auto")
    train_retriever(config)
    saved = yaml.safe_load((config.folder / "config.yaml").read_text())
    del saved["teacher"], saved["model"]["dynamic"]
    (config.folder / "config.yaml").write_text(yaml.safe_dump(saved))
    assert train_retriever(config) == config.folder
    saved["gone"] = 1
    (config.folder / "config.yaml").write_text(yaml.safe_dump(saved))
    with pytest.raises(InputError, match="started with another config"):
        train_retriever(config)


def test_every_epoch_is_another_order_of_the_data(
    shop: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, plain = [], retriever.sampled_softmax

    def noted(*args: Any, **kwargs: Any) -> torch.Tensor:
        drawn.append(tuple(args[2].tolist()))
        return plain(*args, **kwargs)

    monkeypatch.setattr(retriever, "sampled_softmax", noted)
    train_retriever(without_text(shop, tmp_path))
    half = len(drawn) // 2
    assert not set(drawn[:half]) & set(drawn[half:])


# --- refusals


def test_a_run_is_not_overwritten_unasked(trained: RetrieverRun) -> None:
    before = (trained.folder / "metrics.jsonl").read_text()
    with pytest.raises(InputError, match=r"holds a finished run.*--overwrite=true"):
        train_retriever(trained)
    assert (trained.folder / "metrics.jsonl").read_text() == before


def test_another_config_does_not_resume_a_run(trained: RetrieverRun) -> None:
    other = replace(trained, resume=True, optim=OptimConfig(epochs=3))
    with pytest.raises(InputError, match="started with another config"):
        train_retriever(other)


def test_there_is_nothing_to_resume_in_an_empty_folder(shop: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Nothing to resume"):
        train_retriever(run_of(shop, tmp_path, resume=True))
    assert not (tmp_path / "tiny").exists()


def test_faulty_data_leaves_no_run_behind(shop: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        train_retriever(run_of(replace(shop, root=str(tmp_path / "nowhere")), tmp_path))
    assert not (tmp_path / "tiny").exists()


def test_a_checkpoint_that_is_cut_short_is_refused(shop: DataConfig, tmp_path: Path) -> None:
    config = without_text(shop, tmp_path)
    open_run(config)
    (config.folder / "checkpoints").mkdir()
    (config.folder / "checkpoints" / "last.ckpt").write_bytes(b"PK\x03\x04 half")
    with pytest.raises(InputError, match="holds no whole checkpoint"):
        train_retriever(replace(config, resume=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["rank"]}, "next_item, query_to_item or both"),
        ({"tasks": []}, "next_item, query_to_item or both"),
        ({"model": RetrieverConfig(text=TEXT, history=None)}, r"needs model\.history"),
        ({"model": RetrieverConfig(width=16)}, r"needs model\.text"),
        ({"negatives": NegativesConfig(kind="all")}, r"negatives\.kind 'all'"),
        ({"negatives": NegativesConfig(kind="batch", alike=4)}, r"negatives\.alike goes by what texts mean"),
    ],
)
def test_an_impossible_combination_is_refused(
    shop: DataConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_of(shop, tmp_path, **changes)


@pytest.mark.parametrize("wrong", [{"alike": 1}, {"alike": -2}, {"alike": 4, "kind": "all"}])
def test_a_run_of_alike_queries_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"negatives\.alike is"):
        NegativesConfig(**{"kind": "batch", **wrong})


def test_a_loss_without_a_block_is_refused() -> None:
    with pytest.raises(InputError, match=r"loss\.block is 0"):
        LossConfig(block=0)


# --- from weights that know something


def test_queries_that_are_alike_meet_and_a_share_of_the_start_is_exported(
    shop: DataConfig, trained: RetrieverRun, tmp_path: Path
) -> None:
    text = replace(TEXT, model=str(trained.folder / "model" / "text"), mode="lora", lora_rank=2, pretrained=0.25)
    data = replace(shop, history=HistoryConfig(max_items=12))
    config = run_of(
        data, tmp_path, tasks=["query_to_item"], model=replace(trained.model, text=text, history=None, width=None),
        negatives=NegativesConfig(kind="batch", random=0, alike=4),
    )  # fmt: skip
    dealt: list[list[np.ndarray]] = []

    def watched(*arguments: Any, **options: Any) -> list[np.ndarray]:
        assert options["alike"] is not None
        dealt.append(deal_batches(*arguments, **options))
        return dealt[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datamodule, "deal_batches", watched)
        train_retriever(config)
    assert dealt
    figures = stages(config)["retriever, valid_query"]
    assert (figures["recall@10"], figures["ndcg@10"]) == pytest.approx(brute_force(config, "valid_query"), abs=1e-9)


def test_queries_are_alike_by_their_words_and_by_what_is_right_for_them(shop: DataConfig, tmp_path: Path) -> None:
    config = run_of(shop, tmp_path)
    rows = training_rows(config, *build(config, prepare(shop)))
    rows.negatives = NegativesConfig(kind="batch", alike=4)
    queries = np.zeros((len(rows.features.data.queries or ()), 2))
    queries[:, 0] = np.arange(len(queries)) % 2
    items = np.zeros((len(rows.features.data.catalogue), 2))
    rows.group_alike(queries, items)
    assert rows.alike is not None
    assert (rows.alike.leaf[: rows.window_count] == -1).all()
    even = rows.queries % 2 == 0
    leaf = rows.alike.leaf[rows.window_count :]
    mixed = set(leaf[even].tolist()) & set(leaf[~even].tolist())
    assert len(mixed) <= 1  # the halves are of equal size, so that one leaf may hold both


# --- hard negatives that are mined anew


def mining(shop: DataConfig, folder: Path, **changes: Any) -> RetrieverRun:
    negatives = NegativesConfig(kind="batch", random=4, hard=2, refresh=1, mine=MineConfig(last=10, margin=0.0))
    return without_text(
        shop, folder, negatives=negatives, optim=OptimConfig(epochs=3, lr=0.01), **changes
    )  # fmt: skip


def mined_by(config: RetrieverRun, number: int) -> pl.DataFrame:
    return pl.read_parquet(
        sorted((config.folder / "rounds" / f"{number:03d}" / "mined" / "user").glob("part-*.parquet"))
    )


def test_every_round_is_mined_by_the_model_as_it_then_is(shop: DataConfig, tmp_path: Path) -> None:
    config, used = mining(shop, tmp_path), []

    def watched(self: RetrieverRows, draw: Any) -> Any:
        assert self.hard is not None
        used.append((draw.epoch, sorted(self.hard.users.item.tolist())))
        return assemble(self, draw)

    assemble = RetrieverRows.assemble
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RetrieverRows, "assemble", watched)
        train_retriever(config, mine_round)
    data = prepare(config.data)
    rows = {item: row for row, item in enumerate(data.tables.items["item_id"])}
    for epoch in range(3):
        found = mined_by(config, epoch)
        own = {tuple(items) for number, items in used if number == epoch}
        assert own == {tuple(sorted(rows[item] for item in found["item_id"]))}
    assert len({tuple(items) for _, items in used}) == 3
    assert not (config.folder / "rounds" / "002" / "model").exists()


@pytest.mark.parametrize("steps", [[3], [8, 13]], ids=["in the first round", "twice"])
def test_a_run_that_mines_anew_resumes_to_the_bit(
    shop: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    one, two = (mining(shop, tmp_path / name) for name in ("whole", "stopped"))
    train_retriever(one, mine_round)
    stop_and_go_on(two, monkeypatch, steps, mine_round)
    expected, found = weights(one), weights(two)
    assert [name for name, weight in expected.items() if not torch.equal(weight, found[name])] == []
    assert all(mined_by(one, number).equals(mined_by(two, number)) for number in range(3))


def test_another_round_than_the_checkpoints_is_refused(
    shop: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = mining(shop, tmp_path)
    stop(config, monkeypatch, [3], mine_round)
    audit = config.folder / "rounds" / "000" / "mined" / "user" / "audit.json"
    audit.write_text(audit.read_text() + " ")
    with pytest.raises(InputError, match="not the one of the checkpoint"):
        train_retriever(replace(config, resume=True), mine_round)


def test_mining_anew_needs_somebody_who_mines(shop: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs somebody who mines"):
        train_retriever(mining(shop, tmp_path))


# --- without validation, with the best weights, with a frozen encoder


def without_valid(shop: DataConfig, tmp_path: Path) -> DataConfig:
    """The same shop where every row is for training."""
    rows = pl.read_parquet(Path(shop.root) / "interactions.parquet").with_columns(split=pl.lit("train"))
    rows.write_parquet(tmp_path / "interactions.parquet")
    split = SplitConfig(by="column", valid_queries=0.0)
    return replace(shop, tables={"interactions": str(tmp_path / "interactions.parquet")}, split=split)


def test_a_run_without_valid_rows_trains_and_exports(shop: DataConfig, tmp_path: Path) -> None:
    config = without_text(without_valid(shop, tmp_path), tmp_path)
    train_retriever(config)
    assert load_retriever(config.folder / "model").items.id is not None
    assert {path.name for path in (config.folder / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
    assert not (config.folder / "results.json").exists()


def test_best_weights_without_validation_are_refused(shop: DataConfig, tmp_path: Path) -> None:
    best = TrainerConfig(accelerator="cpu", export="best")
    with pytest.raises(InputError, match=r"trainer\.export is 'best'"):
        train_retriever(without_text(without_valid(shop, tmp_path), tmp_path, trainer=best))


def test_the_best_weights_are_exported_where_asked_for(shop: DataConfig, tmp_path: Path) -> None:
    trainer = TrainerConfig(accelerator="cpu", threads=1, export="best")
    config = without_text(shop, tmp_path, trainer=trainer, optim=OptimConfig(epochs=4, lr=0.03))
    train_retriever(config)
    logged = [line["valid/ndcg@10"] for line in lines(config.folder / "metrics.jsonl") if "valid/ndcg@10" in line]
    assert stages(config)["retriever"]["ndcg@10"] == pytest.approx(max(logged), abs=1e-6)


def test_a_frozen_encoder_is_not_in_the_checkpoints_and_the_run_resumes(
    shop: DataConfig, trained: RetrieverRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = TextConfig(model=str(trained.folder / "model" / "text"), mode="frozen", max_tokens=16)
    model = replace(trained.model, text=frozen)
    config = run_of(shop, tmp_path, model=model, trainer=TrainerConfig(accelerator="cpu", threads=1, export="best"))
    stop_and_go_on(config, monkeypatch, [4])
    assert not [name for name, _ in weights(config).items() if name.startswith("model.text.") and "encoder" in name]
    loaded = load_retriever(config.folder / "model")
    assert loaded.text is not None
    assert stages(config)["retriever"]["ndcg@10"] == pytest.approx(brute_force(config, "valid")[1], abs=1e-9)


@pytest.mark.parametrize("wrong", [{"devices": 0}, {"accumulate": 0}, {"check_every": 0}, {"threads": 0}])
def test_a_trainer_without_devices_threads_or_steps_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        TrainerConfig(**wrong)  # pyright: ignore[reportArgumentType]


def test_auto_precision_is_resolved_in_the_saved_config_and_resumes(
    shop: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    trainer = TrainerConfig(accelerator="cpu", threads=1, precision="auto")
    config = without_text(shop, tmp_path, trainer=trainer, loss=LossConfig(products="auto"))
    train_retriever(config)
    assert "precision: bf16-mixed" in (config.folder / "config.yaml").read_text()
    assert train_retriever(replace(config, resume=True)) == config.folder
