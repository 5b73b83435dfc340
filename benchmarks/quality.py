"""Time to quality: minutes of training until search on MovieLens-1M is as good as the peer gets at its own best.

    python benchmarks/quality.py [--config=configs/retriever/ml1m_search.yaml] [--key=value ...]     # extra `bench`
        [--rates 2e-5 5e-5 1e-4 2e-4] [--epochs=3] [--every=6] [--dry]

The peer is sentence-transformers: MultipleNegativesRankingLoss, batches of 64 pairs, AdamW with linear decay, bfloat16
where the chip has it; its rate is chosen on a tenth of the train queries, by a hash of their id, which it has not
learnt from, after each epoch; with the best rate it then learns from all of them. Ours is the config, with what the
command line overrides. Both are measured on the valid queries every --every steps, all films ranked, and the clock
stands still meanwhile; it starts before the model is loaded, with nothing cached. Each training has a process of its
own, alone on the machine. --dry: a few steps of each, to see that it runs.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
from measure import FIGURES, MINILM, THREADS, has_bfloat16, keep
from turns import settings

from recsys.data.sampling import uniform
from recsys.data.text import join_columns

CUT_SEED, CUT_SHARE, K = 8, 0.1, 10
DRY_STEPS = 4
Point = tuple[float, int, float]
"""Minutes of training, steps, nDCG@10."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one side came to."""

    best: float
    minutes: float
    """Until the best."""
    settings: str
    curve: list[Point]

    @classmethod
    def of(cls, curve: Sequence[Point], settings: str) -> "Side":
        """From the points of its training."""
        minutes, _, best = max(curve, key=lambda point: point[2])
        return cls(best=best, minutes=minutes, settings=settings, curve=list(curve))


class Curve:
    """Measures a model every few steps, and counts the minutes of everything else."""

    def __init__(self, every: int, measure: Callable[[], float], begin: float, last: int | None = None) -> None:
        self.every, self.measure, self.last = every, measure, last
        self.begin, self.points = begin, list[Point]()

    def step(self, number: int, *, whole: bool = False) -> bool:
        """After a step; `whole`: measure in any case. Returns whether that was the last one that is wanted."""
        ends = number == self.last
        if number % self.every == 0 or ends or whole:
            paused = time.perf_counter()
            value = self.measure()
            self.points.append(((paused - self.begin) / 60, number, value))
            self.begin += time.perf_counter() - paused
            print(f"  {self.points[-1][0]:.2f} min, step {number}: nDCG@{K} {value:.4f}", flush=True)
        return ends


def first_reached(curve: Sequence[Point], wanted: float) -> float | None:
    """Minutes until a curve was at `wanted` for the first time."""
    return next((minutes for minutes, _, value in curve if value >= wanted), None)


def ndcg(queries: np.ndarray, items: np.ndarray, right: np.ndarray, k: int = K) -> float:
    """Mean nDCG@k where each query has one right item and all are ranked; equal scores do not count against it.

    `queries` [Q, D] and `items` [N, D] are vectors of unit length, `right` [Q] rows of `items`.
    """
    scores = queries @ items.T
    rank = 1 + (scores > scores[np.arange(len(right)), right][:, None]).sum(1)
    return float(np.where(rank <= k, 1 / np.log2(1 + rank), 0.0).mean())


@dataclass(frozen=True, kw_only=True)
class Search:
    """Queries, each with the row of the item that it asks for."""

    queries: list[str]
    right: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is learnt from, chosen on and measured on."""

    items: list[str]
    train: Search
    """Without the cut."""
    cut: Search
    valid: Search
    item_ids: list[Any]

    @classmethod
    def read(cls, folder: str, text: list[str]) -> "Data":
        """Tables in the shape of data/ml1m."""
        table = pl.read_parquet(f"{folder}/items.parquet")
        rows = {item: row for row, item in enumerate(table["item_id"])}
        asked = pl.read_parquet(f"{folder}/queries.parquet").join(
            pl.read_parquet(f"{folder}/qrels.parquet"), on="query_id", maintain_order="left"
        )
        cut = uniform(CUT_SEED, 0, asked["query_id"].to_numpy()) < CUT_SHARE

        def some(chosen: pl.Expr) -> Search:
            part = asked.filter(chosen)
            return Search(queries=part["query"].to_list(), right=np.array([rows[item] for item in part["item_id"]]))

        learnt, held = pl.col("split") == "train", pl.Series(cut)
        return cls(
            items=join_columns(table, text), train=some(learnt & ~held), cut=some(learnt & held),
            valid=some(pl.col("split") == "valid"), item_ids=table["item_id"].to_list(),
        )  # fmt: skip

    def all_train(self) -> Search:
        """The cut among them."""
        return Search(
            queries=self.train.queries + self.cut.queries, right=np.concatenate([self.train.right, self.cut.right])
        )


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A training of sentence-transformers."""

    data: str
    text: list[str]
    model: str
    rate: float
    epochs: int
    batch: int
    every: int
    choosing: bool
    """Whether it leaves out the cut, and is measured on it."""
    max_tokens: int = 128
    last: int | None = None

    def train(self) -> list[Point]:
        """Its curve."""
        import torch
        from datasets import Dataset
        from sentence_transformers import (
            SentenceTransformer,
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
        from transformers import TrainerCallback

        from recsys.config import resolve_pretrained

        torch.set_num_threads(THREADS)
        data, begin = Data.read(self.data, self.text), time.perf_counter()
        learnt, judged = (data.train, data.cut) if self.choosing else (data.all_train(), data.valid)
        model = SentenceTransformer(resolve_pretrained(self.model), device="cpu")
        model.max_seq_length = self.max_tokens

        def measure() -> float:
            made = partial(model.encode, batch_size=64, normalize_embeddings=True)
            return ndcg(made(judged.queries), made(data.items), judged.right)

        every = len(learnt.queries) // self.batch if self.choosing else self.every
        curve = Curve(every, measure, begin, self.last)

        class Measured(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_training_stop = curve.step(state.global_step, whole=state.global_step == state.max_steps)

        with tempfile.TemporaryDirectory() as folder:
            arguments = SentenceTransformerTrainingArguments(
                output_dir=folder, per_device_train_batch_size=self.batch, num_train_epochs=self.epochs,
                learning_rate=self.rate, warmup_steps=0, report_to=[], save_strategy="no", logging_strategy="no",
                bf16=has_bfloat16(), use_cpu=True, disable_tqdm=True, dataloader_drop_last=True, seed=1,
            )  # fmt: skip
            pairs = {"anchor": learnt.queries, "positive": [data.items[row] for row in learnt.right]}
            SentenceTransformerTrainer(
                model=model, args=arguments, loss=MultipleNegativesRankingLoss(model), callbacks=[Measured()],
                train_dataset=Dataset.from_dict(pairs),
            ).train()  # fmt: skip
        return curve.points


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A run of the project."""

    arguments: list[str]
    """Config and overrides."""
    every: int
    last: int | None = None

    def train(self) -> tuple[list[Point], float]:
        """Its curve, and nDCG@10 by the run's own results."""
        from lightning import Callback

        from recsys.config import parse_run
        from recsys.heap import keep_freed_memory
        from recsys.training import retriever_run
        from recsys.training.retriever_run import RetrieverRun

        keep_freed_memory()  # as `recsys train` does
        with tempfile.TemporaryDirectory() as folder:
            places = [f"--runs={folder}", f"--data.cache={folder}/cache", f"--trainer.threads={THREADS}"]
            config = parse_run(RetrieverRun, [*self.arguments, *places])
            data, begin = Data.read(config.data.root, config.data.items.text), time.perf_counter()

            class Measured(Callback):
                def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
                    measure = partial(_measured, pl_module, config, data)
                    self.curve = Curve(every, measure, begin, last)

                def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
                    whole = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
                    trainer.should_stop |= self.curve.step(trainer.global_step, whole=whole)

            every, last, measured = self.every, self.last, Measured()
            fit = retriever_run.fit

            def watched(*parts: Any, more: Sequence[Callback] = (), **named: Any) -> Any:
                return fit(*parts, more=[*more, measured], **named)

            with patch.object(retriever_run, "fit", watched):
                run = retriever_run.train_retriever(config)
            results = json.loads((run / "results.json").read_text())
        return measured.curve.points, results["stages"][0]["metrics"]["ndcg@10"]


def _measured(module: Any, config: Any, data: Data) -> float:
    """Of the text encoder as it is, in float32 outside autocast."""
    import torch

    from recsys.data.text import load_tokenizer, plain_backend
    from recsys.data.tokens import tokenize
    from recsys.models.text import encode_all

    encoder = module.model.text
    tokenizer = load_tokenizer(config.model.text, [], Path())
    backend = plain_backend(tokenizer, encoder.max_tokens)

    def unit(texts: list[str]) -> np.ndarray:
        tokens = tokenize(texts, backend, int(tokenizer.pad_token_id or 0))
        with torch.autocast("cpu", enabled=False):
            vectors = encode_all(encoder, tokens.batch, tokens.lengths)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return ndcg(unit(data.valid.queries), unit(data.items), data.valid.right)


def alone(work: Callable[[], Any]) -> Any:
    """What a piece of work returns, done in a process of its own."""
    with settings(THREADS), get_context("spawn").Pool(1) as pool:
        return pool.apply(work)


def main(arguments: list[str] | None = None) -> None:
    """Search, train, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/retriever/ml1m_search.yaml")
    parser.add_argument("--data", default="data/ml1m")
    parser.add_argument("--text", nargs="+", default=["title", "year", "genres", "description"])
    parser.add_argument("--model", default=MINILM, help="that the peer starts from")
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-5, 5e-5, 1e-4, 2e-4])
    for name, value in (("epochs", 3), ("batch", 64), ("every", 6)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="where they are kept")
    asked, overrides = parser.parse_known_args(arguments)
    begin, last = time.perf_counter(), DRY_STEPS if asked.dry else None
    peer = partial(
        Peer, data=asked.data, text=asked.text, model=asked.model, epochs=asked.epochs, batch=asked.batch,
        every=asked.every, last=last,
    )  # fmt: skip
    chosen: dict[float, float] = {}
    for rate in asked.rates[:1] if asked.dry else asked.rates:
        print(f"the peer at {rate:g}, on the cut:")
        chosen[rate] = max(value for *_, value in alone(peer(rate=rate, choosing=True).train))
    rate = max(chosen, key=lambda one: chosen[one])
    print(f"the peer at {rate:g}, on valid:")
    theirs = Side.of(alone(peer(rate=rate, choosing=False).train), f"lr {rate:g}, up to {asked.epochs} epochs")
    print("ours, on valid:")
    curve, final = alone(Ours(arguments=[asked.config, *overrides], every=asked.every, last=last).train)
    own = Side.of(curve, " ".join([asked.config, *overrides]))
    reached = first_reached(curve, theirs.best)
    print(f"the peer's best: {theirs.best:.4f} after {theirs.minutes:.2f} min; ours at the end: {final:.4f}")
    if reached is None:
        print("ours never reached it")
    else:
        print(f"ours reached it after {reached:.2f} min: {reached / theirs.minutes:.3f} of the peer's time")
    keep(
        "quality_dry" if asked.dry else "quality", begin, asked.figures, reached=reached, peer_minutes=theirs.minutes,
        sides={"sentence-transformers": asdict(theirs), "ours": asdict(own)}, final=final,
        chosen={f"{one:g}": value for one, value in chosen.items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
