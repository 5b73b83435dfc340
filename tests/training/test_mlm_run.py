"""Masked-language training from end to end: the guesses get better, and others can start from what it leaves."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from recsys.cli import main
from recsys.config import TextConfig
from recsys.data.datamodule import LoaderConfig
from recsys.data.text import load_tokenizer
from recsys.errors import InputError
from recsys.models.masked import MaskedConfig, MaskedLanguageModel
from recsys.models.text import TextEncoder
from recsys.stopping import Interrupted, request
from recsys.tables.config import DataConfig, ItemsConfig
from recsys.training.mlm_run import MlmRun, open_training, train_mlm
from recsys.training.optim import OptimConfig
from recsys.training.run import TrainerConfig, config_text
from recsys.training.tracking import TrackConfig

TEXT = TextConfig(model="config:", mode="full", layers=1, width=32, heads=2, max_tokens=32, vocab=200)


WORDS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "north",
    "east",
    "south",
    "west",
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> MlmRun:
    """Texts that say one word over and over: who reads the others knows a hidden one."""
    folder = tmp_path_factory.mktemp("mlm")
    (folder / "tables").mkdir()
    texts = [" ".join([word] * count) for word in WORDS for count in range(5, 13)]
    items = {"item_id": range(len(texts)), "title": texts}
    queries = {"query_id": [0, 1], "query": ["seven eight nine", "nine ten"], "split": ["train", "valid"]}
    pl.DataFrame(items).write_parquet(folder / "tables/items.parquet")
    pl.DataFrame(queries).write_parquet(folder / "tables/queries.parquet")
    relevance = {"query_id": [0, 1], "item_id": [0, 1]}
    pl.DataFrame(relevance).write_parquet(folder / "tables/relevance.parquet")
    return MlmRun(
        task="mlm", name="words", runs=str(folder / "runs"),
        data=DataConfig(root=str(folder / "tables"), cache=str(folder / "cache"), items=ItemsConfig(text=["title"])),
        model=MaskedConfig(text=TEXT), held_out=0.2, loader=LoaderConfig(batch_size=16),
        optim=OptimConfig(epochs=80, lr=0.01, text_lr=0.005, warmup=0.1),
        trainer=TrainerConfig(accelerator="cpu", threads=1, check_every=20),
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(config: MlmRun) -> Path:
    return train_mlm(config)


def test_it_learns_to_guess_the_words_of_texts_that_it_has_not_seen(trained: Path):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    judged = [line for line in lines if "valid/loss" in line]
    assert judged[-1]["valid/loss"] < judged[0]["valid/loss"]
    stage = json.loads((trained / "results.json").read_text())["stages"][0]
    assert stage["name"] == "mlm"
    assert stage["metrics"]["accuracy"] > 0.5
    assert stage["metrics"]["loss"] == pytest.approx(judged[-1]["valid/loss"], rel=1e-4)


def test_a_retriever_or_pruner_starts_from_its_folder(trained: Path, config: MlmRun):
    text = replace(TEXT, model=str(trained / "model"))
    tokenizer = load_tokenizer(text, [], trained)
    encoder = TextEncoder.build(text, len(tokenizer))
    weights = encoder.state_dict()
    module, _ = open_training(config)
    untrained = module.model.text.state_dict()
    assert weights.keys() == untrained.keys()
    assert any(not weights[name].equal(weight) for name, weight in untrained.items())
    assert tokenizer.mask_token == "[MASK]"


def test_a_stopped_and_resumed_run_is_equal_to_the_bit(config: MlmRun, tmp_path: Path, monkeypatch):
    optim, track = replace(config.optim, epochs=2), TrackConfig(every=2)
    short = replace(config, runs=str(tmp_path), optim=optim, held_out=0.0, track=track)
    whole = train_mlm(replace(short, name="whole"))
    left, plain = [3], MaskedLanguageModel.forward

    def forward(self, batch):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(MaskedLanguageModel, "forward", forward)
        with pytest.raises(Interrupted, match="Go on with"):
            train_mlm(replace(short, name="stopped"))
    stopped = train_mlm(replace(short, name="stopped", resume=True))
    request.forget()
    names = ["model/model.safetensors", "metrics.jsonl"]
    assert [(stopped / name).read_bytes() for name in names] == [(whole / name).read_bytes() for name in names]


def test_the_command_trains_and_plans(config: MlmRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mlm.yaml"
    path.write_text(config_text(replace(config, name="typed", runs=str(tmp_path))))
    assert main(["train", str(path), "--optim.epochs=1", "--trainer.check_every=1"]) == 0
    assert "Accuracy" in capsys.readouterr().out
    assert main(["plan", str(path), "--gpus=1xV100"]) == 0
    assert "sbatch" in capsys.readouterr().out


def test_fsdp_is_refused(config: MlmRun):
    with pytest.raises(InputError, match="fsdp"):
        replace(config, trainer=replace(config.trainer, strategy="fsdp"))
