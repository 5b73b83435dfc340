"""A plan against what it foretells: the memory, operations and columns of the whole batch, measured."""

from pathlib import Path

import pytest
import torch

from recsys.cli import main
from recsys.config import TextConfig
from recsys.data.datasets import NegativesConfig, RetrieverRows
from recsys.data.sampling import Draw, deal_batches
from recsys.data.sources.shop import write_shop
from recsys.errors import InputError
from recsys.models.towers import RetrieverConfig
from recsys.tables.config import DataConfig, ItemsConfig, QueriesConfig, RelevanceConfig
from recsys.training.plan import EFFICIENCY, Machines, Plan, _probe, describe, overfit, plan
from recsys.training.retriever import CachedConfig, LossConfig, RetrieverTraining
from recsys.training.retriever_run import RetrieverRun, open_training
from recsys.training.run import LoaderConfig

BATCH = 48
MACHINES = Machines(each=2, kind="V100", nodes=1, efficiency=EFFICIENCY)


def run_of(folder: Path, **changes) -> RetrieverRun:
    data = DataConfig(
        root=str(folder / "shop"), cache=str(folder / "cache"), tables={"interactions": "", "users": ""},
        items=ItemsConfig(text=["title", "description"]), queries=QueriesConfig(),
        relevance=RelevanceConfig(grade="grade"),
    )  # fmt: skip
    text = TextConfig(model="config:", mode="full", layers=2, width=64, heads=2, max_tokens=64)
    values = {
        "model": RetrieverConfig(text=text, id_vector=False, history=None, normalize=True),
        "negatives": NegativesConfig(kind="batch", random=0), "loader": LoaderConfig(batch_size=BATCH), **changes,
    }  # fmt: skip
    return RetrieverRun(task="retriever", name="x", data=data, tasks=["query_to_item"], **values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("plan")
    write_shop(made / "shop", size=300)
    return made


def opened(config: RetrieverRun) -> tuple[RetrieverTraining, RetrieverRows]:
    module, rows = open_training(config)
    module.log = lambda *args, **kwargs: None  # pyright: ignore[reportAttributeAccessIssue]
    return module, rows


def test_what_a_plan_foretells_is_what_the_whole_batch_measures(folder: Path):
    config = run_of(folder)
    module, rows = opened(config)
    found = plan(config, module, rows, Machines(each=1, kind="V100", nodes=1, efficiency=0.5))
    batches = deal_batches(rows.lengths(0), rows.groups(), batch_size=BATCH, bucket=16, seed=0, epoch=0)
    batch = rows.assemble(Draw(epoch=0, number=0, rows=batches[0]))
    measured = _probe(module, batch)
    assert found.memory["activations"] == pytest.approx(measured.saved, rel=0.2)
    assert found.flops == pytest.approx(measured.flops, rel=0.2)
    assert found.negatives == len(batch.item) - 1
    assert found.steps == config.optim.epochs * len(batches)
    weights = sum(weight.numel() * 4 for weight in module.model.parameters())
    trained = sum(weight.numel() * 4 for weight in module.model.parameters() if weight.requires_grad)
    assert found.memory["weights"] == weights
    assert found.memory["Adam"] == 2 * trained == 2 * found.memory["gradients"]
    assert "DDP's buckets" not in found.memory
    assert found.hours(MACHINES) == pytest.approx(found.flops * found.steps / (2 * 125e12 * EFFICIENCY) / 3600)


@pytest.mark.parametrize("size", [24, BATCH])
def test_two_processes_have_half_a_batch_each_and_all_of_its_negatives(folder: Path, size: int):
    config = run_of(folder, loader=LoaderConfig(batch_size=size))
    module, rows = opened(config)
    one, two = (
        plan(config, module, rows, Machines(each=count, kind="A100", nodes=1, efficiency=0.5)) for count in (1, 2)
    )
    batch = deal_batches(rows.lengths(0), rows.groups(), batch_size=size, bucket=16, seed=0, epoch=0)[0]
    whole, *halves = (rows.assemble(Draw(epoch=0, number=0, rows=some)) for some in (batch, batch[::2], batch[1::2]))
    assert two.memory["activations"] == pytest.approx(one.memory["activations"] / 2, rel=0.2)
    assert two.negatives == one.negatives
    twice = sum(half.tokens for half in halves) / whole.tokens  # an item that both have is encoded by each
    assert two.flops == pytest.approx(one.flops * twice, rel=0.1)
    assert two.batch_bytes < 0.7 * one.batch_bytes
    assert two.memory["DDP's buckets"] == two.memory["gradients"]


def test_a_cached_loss_keeps_one_chunk_of_texts_at_a_time(folder: Path):
    one = Machines(each=1, kind="A100", nodes=1, efficiency=0.5)

    def activations(rows: int | None) -> float:
        config = run_of(folder, loss=LossConfig(cached=None if rows is None else CachedConfig(rows=rows, tokens=None)))
        return plan(config, *opened(config), one).memory["activations"]

    plain, small, large = activations(None), activations(4), activations(16)
    assert 2.5 < large / small < 4  # nearly in proportion: the rest of the model keeps little
    assert large < plain / 2
    assert 0.5 < activations(BATCH) / plain < 0.9  # items and queries are a chunk each: the larger of two parts


def test_one_batch_is_learnt_by_heart(folder: Path):
    first, last = overfit(*opened(run_of(folder)))
    assert last < 0.5 * first


def test_a_plan_ends_with_the_line_to_submit():
    found = Plan(memory={"weights": 2.0**30}, flops=1e12, steps=3600 * 50, negatives=1023, batch_bytes=1.0)
    said = describe(found, Machines(each=8, kind="V100", nodes=2, efficiency=0.5), ["c.yaml", "--seed=1"])
    assert "1.00 GiB a GPU of 32 GiB" in said
    assert "TOO MUCH" not in said
    assert " 0.05 at 50% of 125 TFLOP/s" in said
    assert said.endswith(
        "sbatch --nodes=2 --ntasks-per-node=8 --gres=gpu:8 --time=00:10:00 slurm/train.sbatch c.yaml --seed=1"
    )
    large = Plan(memory={"weights": 31 * 2.0**30}, flops=1e12, steps=1, negatives=None, batch_bytes=1.0)
    assert "TOO MUCH" in describe(large, MACHINES, ["c.yaml"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("8xV10", "1", "0.3"), r"'8xV10'; expected NUMBERxKIND.* Did you mean 'V100'"),
        (("V100", "1", "0.3"), "expected NUMBERxKIND"),
        (("0xV100", "1", "0.3"), "expected NUMBERxKIND"),
        (("8xV100", "none", "0.3"), "expected a whole number"),
        (("8xV100", "1", "3"), "a share up to 1"),
    ],
)
def test_machines_that_are_none_are_refused(arguments: tuple[str, str, str], message: str):
    with pytest.raises(InputError, match=message):
        Machines.parse(*arguments)


def test_a_batch_that_cannot_be_dealt_is_refused(folder: Path):
    config = run_of(folder)
    with pytest.raises(InputError, match="cannot be dealt to 7 processes"):
        plan(config, *opened(config), Machines(each=7, kind="V100", nodes=1, efficiency=0.5))


def test_the_command_plans_and_tries(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path):
    import yaml

    from recsys.training.run import config_text

    content = yaml.safe_load(config_text(run_of(folder)))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    assert main(["plan", str(tmp_path / "c.yaml"), "--gpus", "2xA100", "--try", "--optim.epochs=3"]) == 0
    said = capsys.readouterr().out
    assert "1 x 2 A100, 2 processes" in said
    assert "one batch, learnt by heart: loss" in said
    assert f"slurm/train.sbatch {tmp_path}/c.yaml --optim.epochs=3" in said
    assert main(["plan", str(tmp_path / "c.yaml")]) == 2
    assert "Expected --gpus=NUMBERxKIND" in capsys.readouterr().err
    assert torch.is_grad_enabled()
