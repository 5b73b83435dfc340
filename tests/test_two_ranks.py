"""Several gloo processes against one: loss and gradient of a step, measures, and a whole training of two.

This file is also the program that each of the two runs: ROOT CACHE OUT.
"""

import json
import os
import socket
import subprocess
import sys
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import torch.distributed as dist
from lightning import Trainer
from transformers import PreTrainedTokenizerFast

from recsys.config import TextConfig
from recsys.data.cloze import ClozeConfig
from recsys.data.datamodule import DataModule, LoaderConfig
from recsys.data.datasets import Features, NegativesConfig, RetrieverRows
from recsys.data.prepare import Prepared, prepare
from recsys.data.requests import validation_requests
from recsys.data.sampling import Draw, deal_to_rank
from recsys.data.sources.shop import write_shop
from recsys.metrics.accumulate import RankingMetrics
from recsys.metrics.long_tail import popularity_segments
from recsys.models.dynamic import DynamicConfig
from recsys.models.history import HistoryEncoderConfig
from recsys.models.towers import Retriever, RetrieverConfig
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
from recsys.training.distributed import average_gradients, processes, sum_over_processes, whole_state
from recsys.training.optim import OptimConfig
from recsys.training.retriever import CachedConfig, LossConfig, RetrieverTraining, TeacherConfig
from recsys.training.retriever_run import RetrieverRun, _valid_loaders, build, train_retriever, training_rows
from recsys.training.run import TrainerConfig, config_text, prepare_process, strategy_of

Results = dict[str, dict[str, float]]
LOSSES = {"plain": LossConfig(), "cached": LossConfig(cached=CachedConfig(rows=5))}


def run_of(root: str, place: str) -> RetrieverRun:
    """Both tasks and every source: a batch of one task lacks what only the other has."""
    data = DataConfig(
        root=root, cache=place, items=ItemsConfig(text=["title"], category=["category"], number=["price"]),
        users=UsersConfig(category=["gender"], number=["age"]),
        interactions=InteractionsConfig(event="event", target_events=["purchase"], context=["page"]),
        queries=QueriesConfig(user="user_id", order="timestamp"), relevance=RelevanceConfig(grade="grade"),
        split=SplitConfig(valid_queries=0.3), history=HistoryConfig(max_items=8, queries=True),
    )  # fmt: skip
    text = TextConfig(model="config:", mode="full", layers=1, width=16, heads=2, max_tokens=12, vocab=300)
    history, dynamic = HistoryEncoderConfig(layers=1, heads=2), DynamicConfig(width=8, negatives=5)
    model = RetrieverConfig(text=text, width=16, history=history, dynamic=dynamic)
    return RetrieverRun(
        task="retriever", name="two", data=data, tasks=["next_item", "query_to_item"], model=model,
        negatives=NegativesConfig(kind="batch", random=16), loader=LoaderConfig(batch_size=16),
    )  # fmt: skip


@cache
def data_of(root: str, place: str) -> Prepared:
    return prepare(run_of(root, place).data)


@cache
def parts_of(root: str, place: str) -> tuple[Features, Retriever, PreTrainedTokenizerFast | None]:
    torch.manual_seed(0)
    features, model, tokenizer = build(run_of(root, place), data_of(root, place))
    assert model.dynamic is not None
    torch.nn.init.normal_(model.dynamic.out.weight)  # it starts as nothing
    return features, model, tokenizer


def prepare_training(config: RetrieverRun) -> tuple[RetrieverTraining, DataModule]:
    """Seven users and one query are asked about: neither divides by two, and of the query one process has nothing."""
    prepare_process(config)
    data = data_of(config.data.root, config.data.cache)
    features, model, tokenizer = build(config, data)
    found = validation_requests(data, config.tasks)
    requests = [found["valid"].take(np.arange(7)), found["valid_query"].take(np.arange(1))]
    rows = training_rows(config, features, model, tokenizer)
    module = RetrieverTraining(
        model, features.catalogue(), torch.from_numpy(data.popularity()), valid=["valid", "valid_query"],
        optim=OptimConfig(), loss=config.loss, total_steps=10,
    )  # fmt: skip
    return module, DataModule(rows, partial(_valid_loaders, features, requests), config.loader, seed=0)


def trainer_of(devices: int, strategy: str = "auto") -> Trainer:
    config = TrainerConfig(devices=devices, strategy="fsdp" if strategy == "fsdp" else "auto")
    return Trainer(
        accelerator="cpu", devices=devices, strategy=strategy_of(config), max_epochs=1, logger=False,
        use_distributed_sampler=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, gradient_clip_val=1.0, accumulate_grad_batches=2,
    )  # fmt: skip


def trained(config: RetrieverRun, devices: int, loss: LossConfig, strategy: str = "auto") -> list[float]:
    """Every weight after an epoch without dropout, with clipping and accumulation, one after the other."""
    module, data = prepare_training(replace(config, loss=loss))
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    trainer_of(devices, strategy).fit(module, datamodule=data)
    state = whole_state(module.model) if strategy == "fsdp" else module.model.state_dict()  # empty on a second process
    return [value for name, _ in module.model.named_parameters() if state for value in state[name].flatten().tolist()]


def values_of_requests(trainer: Trainer, module: RetrieverTraining, data: DataModule) -> dict[str, dict[str, list]]:
    """Columns of each set, as plain lists; of a module that was validated before."""
    module.keep_requests([7, 1])
    trainer.validate(module, datamodule=data, verbose=False)
    found = {name: {key: column.tolist() for key, column in values.items()} for name, values in module.requests.items()}
    module.each = torch.nn.ModuleList()
    return found


def main(root: str, place: str, out: str) -> None:
    """One of two processes: validate, train, write what came of it."""
    torch.set_num_threads(1)
    module, data = prepare_training(run_of(root, place))
    trainer = trainer_of(2)
    trainer.validate(module, datamodule=data, verbose=False)
    results = dict(module.results)
    each = values_of_requests(trainer, module, data)
    config = run_of(root, place)
    weights = {name: trained(config, 2, loss) for name, loss in LOSSES.items()}
    shared = trained(config, 2, LossConfig(), "fsdp")
    module, data = prepare_training(config)
    trainer_of(2, "fsdp").validate(module, datamodule=data, verbose=False)
    content = {"results": results, "weights": weights, "each": each, "fsdp": [shared, module.results]}
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
    port = str(free_port())
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


@pytest.mark.parametrize("loss", list(LOSSES))
def test_two_processes_train_to_the_weights_of_one(ranks: list[dict], config: RetrieverRun, loss: str) -> None:
    """On both tasks, whose batches lack what only the other has. Adam makes much of a gradient's last bit."""
    alone = np.array(trained(config, 1, LossConfig()))
    assert ranks[0]["weights"][loss] == ranks[1]["weights"][loss]
    together = np.array(ranks[0]["weights"][loss])
    assert np.abs(together - alone).max() < 1e-3
    assert np.abs(together - alone).mean() < 1e-5


def test_an_encoder_that_two_processes_share_out_trains_to_the_weights_of_a_whole_one(
    ranks: list[dict], config: RetrieverRun, alone: Results
) -> None:
    expected = np.array(ranks[0]["weights"]["plain"])
    assert np.abs(np.array(ranks[0]["fsdp"][0]) - expected).max() < 1e-3
    for rank in ranks:
        assert rank["fsdp"][1] == alone


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_says_so(config: RetrieverRun, tmp_path: Path) -> None:
    """One process stops after its first epoch; two go on with the same global rows."""
    model = RetrieverConfig(width=16, dropout=0.0, history=HistoryEncoderConfig(layers=1, heads=2, dropout=0.0))
    data = replace(config.data, history=HistoryConfig(max_items=8))
    one = replace(
        config, model=model, data=data, tasks=["next_item"], runs=str(tmp_path), optim=OptimConfig(epochs=2),
        trainer=TrainerConfig(accelerator="cpu", threads=1),
    )  # fmt: skip
    whole = weights_of(train_retriever(replace(one, name="whole")))
    path = tmp_path / "config.yaml"
    path.write_text(config_text(replace(one, name="stopped")))
    stops = "from recsys.training import preemption as p, run; p.StopAtBoundary.on_train_epoch_end = stop"
    stop = "def stop(self, trainer, module):\n    trainer.save_checkpoint(self.checkpoint)\n    raise SystemExit(9)\n"
    start = f"import sys; from recsys.cli import main\n{stop}{stops}\nmain(sys.argv[1:])"
    subprocess.run([sys.executable, "-c", start, "train", str(path)], check=False, capture_output=True)
    command = [sys.executable, "-m", "recsys", "train", str(path), "--trainer.devices=2", "--resume=auto"]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "goes on in another place" in found.stderr
    resumed = weights_of(tmp_path / "stopped")
    assert max(float((resumed[name] - weight).abs().max()) for name, weight in whole.items()) < 1e-3
    steps = [json.loads(line)["step"] for line in (tmp_path / "stopped/metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line)["step"] for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert steps == expected


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@dataclass(frozen=True)
class Case:
    """What a step is made of. On some processes no history of a step holds a search, so that a source is absent."""

    task: str
    wide: bool
    """Float64."""
    cached: bool
    kind: str = "batch"
    log_q: bool = True
    hard: int = 0
    cloze: bool = False


CASES = [
    *(
        Case(task, wide, cached, log_q=log_q, hard=hard)
        for task, wide, cached, log_q, hard in product(
            ("next_item", "query_to_item"), (False, True), (False, True), (False, True), (0, 2)
        )
    ),
    *(Case("next_item", True, cached, kind="all") for cached in (False, True)),
    *(Case("query_to_item", True, cached, cloze=True) for cached in (False, True)),
]


def one_step(config: RetrieverRun, case: Case, mined: str, rank: int, world: int) -> tuple[float, np.ndarray]:
    """Loss and gradient of one global batch of eight rows, dropout off, as a process of `world` has them at the end."""
    path = mined if case.hard else None
    negatives = NegativesConfig(kind="batch", random=9, log_q=case.log_q, hard=case.hard, mined=path)
    loss = LossConfig(cached=CachedConfig(rows=3) if case.cached else None)
    features, model, tokenizer = parts_of(config.data.root, config.data.cache)
    teacher = TeacherConfig(logits=mined, candidates=4) if case.hard and case.task == "query_to_item" else None
    items = replace(config.data.items, text=["title", "description"])
    cloze = ClozeConfig(columns=["title"], share=0.4) if case.cloze else None  # three of eight: no equal shares
    config = replace(config, data=replace(config.data, items=items), cloze=cloze)
    config = replace(config, negatives=negatives, loss=loss, teacher=teacher)
    rows = training_rows(config, features, model, tokenizer)
    if case.kind == "all":
        rows.negatives = NegativesConfig()  # by config it goes with a frozen encoder alone: it is slow
    module = RetrieverTraining(
        deepcopy(model), features.catalogue(), torch.from_numpy(features.data.popularity()), valid=[],
        optim=OptimConfig(), loss=loss, total_steps=10, teacher=teacher,
    )  # fmt: skip
    module = module.double() if case.wide else module
    module.catalogue = widen(module.catalogue) if case.wide else module.catalogue
    module.eval()
    module.log = lambda *args, **kwargs: None  # pyright: ignore[reportAttributeAccessIssue]
    chosen = searching(rows) if case.task == "next_item" else np.flatnonzero(rows.groups() == 1)[:8]
    draw = Draw(epoch=1, number=3, rows=deal_to_rank(chosen, rank, world), part=rank, parts=world, whole=chosen)
    batch = rows.assemble(draw)
    batch = widen(batch) if case.wide else batch
    loss = module.training_step(batch, 0)
    loss.backward()
    if module.cached is not None:
        module.cached.backward()
    average_gradients(module.model.parameters())
    weights = [weight for weight in module.model.parameters() if weight.requires_grad]
    grads = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    total = sum_over_processes(loss.detach()) / processes()
    return float(total), torch.cat([grad.flatten() for grad in grads]).double().numpy()


def searching(rows: RetrieverRows) -> np.ndarray:
    """Eight windows of which every fourth alone, from the first on, has searches in its history."""
    found = {True: [], False: []}
    for row in range(rows.window_count):
        users = rows.assemble(Draw(epoch=1, number=3, rows=np.array([row]))).users
        found[users.query_text is not None].append(row)
        if len(found[True]) > 1 and len(found[False]) > 5:
            break
    first, others = found[True], found[False]
    return np.array([first[0], *others[:3], first[1], *others[3:6]])


def widen(batch):
    return batch._each(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def measured(count: int, rank: int, world: int) -> dict[str, float]:
    """The measures of `count` made-up requests, dealt to `world` processes."""
    rng = np.random.default_rng(count)
    popularity = torch.from_numpy(rng.integers(0, 50, 90))
    metric = RankingMetrics(segments=popularity_segments(popularity), popularity=popularity)
    ranks, targets = (torch.from_numpy(rng.integers(0, 90, (count, 2))) for _ in range(2))
    top = torch.from_numpy(rng.random((count, 90)).argsort(1)[:, : metric.list_k].copy())
    grades = torch.from_numpy(rng.integers(1, 4, (count, 2)).astype(np.float32))
    mine = slice(rank, None, world)
    if len(ranks[mine]):
        metric.update(ranks[mine], targets[mine], top[mine], grades[mine])
    return metric.compute()


def work(rank: int, ports: dict[int, int], config: RetrieverRun, mined: str, out: str) -> None:
    """What each of four processes does, in groups of two, three and four."""
    torch.set_num_threads(1)
    for world, port in ports.items():
        if rank >= world:
            continue
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
        steps = [] if world == 3 else [one_step(config, case, mined, rank, world) for case in CASES]
        content = {
            "steps": [(loss, torch.from_numpy(grad)) for loss, grad in steps],
            "counted": {count: measured(count, rank, world) for count in (7, 1001, 2)},
        }
        torch.save(content, Path(out) / f"{world}-{rank}.pt")
        dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def mined(config: RetrieverRun, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Five items for every query, and what a teacher says of them: some are relevant, and no negatives."""
    path = tmp_path_factory.mktemp("mined") / "mined.parquet"
    tables = prepare(config.data).tables
    queries, items = tables.queries["query_id"].to_list(), tables.items["item_id"].to_list()
    pairs = [
        (query, items[(7 * place + step) % len(items)], float(place % 3 - step))
        for place, query in enumerate(queries)
        for step in range(5)
    ]
    pl.DataFrame(pairs, schema=["query_id", "item_id", "logit"], orient="row").write_parquet(path)
    return str(path)


@pytest.fixture(scope="module")
def several(config: RetrieverRun, mined: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict]]:
    """What 2, 3 and 4 processes found, by their number."""
    out = tmp_path_factory.mktemp("several")
    arguments = ({world: free_port() for world in (2, 3, 4)}, config, mined, str(out))
    torch.multiprocessing.start_processes(work, arguments, nprocs=4, start_method="spawn")
    return {
        world: [torch.load(out / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)]
        for world in (2, 3, 4)
    }


@pytest.mark.parametrize("number", range(len(CASES)), ids=map(str, CASES))
def test_a_step_of_several_processes_has_the_loss_and_gradient_of_one(
    several: dict[int, list[dict]], config: RetrieverRun, mined: str, number: int
) -> None:
    case = CASES[number]
    loss, grad = one_step(config, case, mined, 0, 1)
    bound = 1e-12 if case.wide else 1e-5
    assert np.linalg.norm(grad) > 0.01
    for world in (2, 4):
        for one in several[world]:
            found, other = one["steps"][number]
            assert abs(found - loss) <= bound * abs(loss)
            assert np.linalg.norm(other.numpy() - grad) <= bound * np.linalg.norm(grad)


@pytest.mark.parametrize("count", [7, 1001, 2])
def test_measures_are_equal_to_the_last_count_on_any_number_of_processes(
    several: dict[int, list[dict]], count: int
) -> None:
    alone = measured(count, 0, 1)
    for world in (2, 3, 4):
        for one in several[world]:
            assert one["counted"][count] == alone


if __name__ == "__main__":
    main(*sys.argv[1:])
