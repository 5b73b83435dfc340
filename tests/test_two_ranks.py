"""Two gloo processes against one. This file is also the program that each of the two runs: ROOT CACHE OUT."""

import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer

from recsys.config import TextConfig
from recsys.data.datamodule import DataModule, LoaderConfig
from recsys.data.datasets import NegativesConfig, RetrieverRows
from recsys.data.prepare import prepare
from recsys.data.requests import validation_requests
from recsys.data.sources.shop import write_shop
from recsys.models.history import HistoryEncoderConfig
from recsys.models.towers import RetrieverConfig
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
from recsys.training.optim import OptimConfig
from recsys.training.retriever import LossConfig, RetrieverTraining
from recsys.training.retriever_run import RetrieverRun, _valid_loaders, build
from recsys.training.run import prepare_process

Results = dict[str, dict[str, float]]


def run_of(root: str, cache: str) -> RetrieverRun:
    """Both tasks and every source: a batch of one task lacks what only the other has."""
    data = DataConfig(
        root=root, cache=cache, items=ItemsConfig(text=["title"], category=["category"], number=["price"]),
        users=UsersConfig(category=["gender"], number=["age"]),
        interactions=InteractionsConfig(event="event", target_events=["purchase"], context=["page"]),
        queries=QueriesConfig(user="user_id", order="timestamp"), relevance=RelevanceConfig(grade="grade"),
        split=SplitConfig(valid_queries=0.3), history=HistoryConfig(max_items=8, queries=True),
    )  # fmt: skip
    text = TextConfig(model="config:", mode="full", layers=1, width=16, heads=2, max_tokens=12, vocab=300)
    model = RetrieverConfig(text=text, width=16, history=HistoryEncoderConfig(layers=1, heads=2))
    return RetrieverRun(
        task="retriever", name="two", data=data, tasks=["next_item", "query_to_item"], model=model,
        negatives=NegativesConfig(kind="batch", random=16), loader=LoaderConfig(batch_size=16),
    )  # fmt: skip


def prepare_training(config: RetrieverRun) -> tuple[RetrieverTraining, DataModule]:
    """Seven users and one query are asked about: neither divides by two, and of the query one process has nothing."""
    prepare_process(config)
    data = prepare(config.data)
    features, model, _ = build(config, data)
    found = validation_requests(data, config.tasks)
    requests = [found["valid"].take(np.arange(7)), found["valid_query"].take(np.arange(1))]
    rows = RetrieverRows(features, tasks=config.tasks, negatives=config.negatives, history_dropout=0.0, seed=0)
    module = RetrieverTraining(
        model, features.catalogue(), torch.from_numpy(data.popularity()), valid=["valid", "valid_query"],
        optim=OptimConfig(), loss=LossConfig(), total_steps=10,
    )  # fmt: skip
    return module, DataModule(rows, partial(_valid_loaders, features, requests), config.loader, seed=0)


def trainer_of(devices: int) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=1, logger=False,
        use_distributed_sampler=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip


def values_of_requests(trainer: Trainer, module: RetrieverTraining, data: DataModule) -> dict[str, dict[str, list]]:
    """Columns of each set, as plain lists; of a module that was validated before."""
    module.keep_requests([7, 1])
    trainer.validate(module, datamodule=data, verbose=False)
    found = {name: {key: column.tolist() for key, column in values.items()} for name, values in module.requests.items()}
    module.each = torch.nn.ModuleList()
    return found


def main(root: str, cache: str, out: str) -> None:
    """One of two processes: validate, train an epoch, write what came of it."""
    torch.set_num_threads(1)
    module, data = prepare_training(run_of(root, cache))
    trainer = trainer_of(2)
    trainer.validate(module, datamodule=data, verbose=False)
    results = dict(module.results)
    each = values_of_requests(trainer, module, data)
    trainer.fit(module, datamodule=data)
    weights = [float(weight.double().sum()) for weight in module.model.parameters()]
    content = {"results": results, "weights": weights, "steps": trainer.global_step, "each": each}
    Path(out, f"rank{trainer.global_rank}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RetrieverRun:
    folder = tmp_path_factory.mktemp("two")
    write_shop(folder / "shop", size=60)
    return run_of(str(folder / "shop"), str(folder / "cache"))


@pytest.fixture(scope="module")
def one(config: RetrieverRun) -> dict:
    """What one process says of all requests together, and of each."""
    module, data = prepare_training(config)
    trainer = trainer_of(1)
    trainer.validate(module, datamodule=data, verbose=False)
    return {"results": dict(module.results), "each": values_of_requests(trainer, module, data)}


@pytest.fixture(scope="module")
def alone(one: dict) -> Results:
    return one["results"]


@pytest.fixture(scope="module")
def ranks(config: RetrieverRun, alone: Results, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of the two processes wrote; the caches are there already."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
              "TORCHELASTIC_RUN_ID": "two", "GROUP_RANK": "0", "PYTHONWARNINGS": "ignore"}  # fmt: skip
    command = [sys.executable, __file__, config.data.root, config.data.cache, str(out)]
    processes = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in "01"]


def test_an_uneven_number_of_requests_is_measured_as_by_one_process(ranks: list[dict], alone: Results) -> None:
    assert alone["valid"]["queries"] == 7
    assert alone["valid_query"]["queries"] == 1
    for rank in ranks:
        assert rank["results"] == alone


def test_each_request_is_measured_as_by_one_process(ranks: list[dict], one: dict) -> None:
    assert one["each"]["valid"]["request"] == list(range(7))
    assert np.mean(one["each"]["valid"]["ndcg@10"]) == pytest.approx(one["results"]["valid"]["ndcg@10"], abs=2**-32)
    for rank in ranks:
        assert rank["each"] == one["each"]


def test_both_tasks_train_on_two_processes_with_the_same_weights(ranks: list[dict]) -> None:
    assert ranks[0]["steps"] > 10
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert all(weight == weight for weight in ranks[0]["weights"])  # no NaN


if __name__ == "__main__":
    main(*sys.argv[1:])
