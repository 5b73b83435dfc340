"""BERT-base on one CUDA GPU: MFU, rates and memory of training and encoding, against padded batches.

    python benchmarks/gpu.py                            # at most eight minutes, nothing is downloaded
    python benchmarks/gpu.py --device=cpu --tiny        # the same on a toy, to see that it runs

The encoder (12 layers, width 768) starts from random weights, its tokenizer is learnt from the texts, and those are
made up: 8 to 250 words for an item, log-normal around 64, and 4 to 40 for a query. Training is the project's own, in
full, with the items of 256 pairs as negatives, in bfloat16, or float16 where the card has no bfloat16; a step is all
that happens from one batch's end to that of the next. Encoding is that of the items, weights in the same format.
Padded: the same batches in training, each as long as its longest text; in encoding 256 texts at a time as the table has
them. MFU is the share of the largest rate of matrix products that the card reached here; real tokens alone count as
work.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from lightning import Callback
from measure import FIGURES, keep
from memory import most_memory

from recsys.batch import TextBatch
from recsys.config import TextConfig
from recsys.data.datamodule import DataModule, LoaderConfig
from recsys.data.datasets import NegativesConfig, RetrieverRows
from recsys.data.text import load_tokenizer, plain_backend
from recsys.data.tokens import Tokens, tokenize
from recsys.models.text import TextEncoder, encode_all
from recsys.models.towers import RetrieverConfig
from recsys.tables import DataConfig, ItemsConfig, QueriesConfig, RelevanceConfig, SplitConfig
from recsys.training.flops import StepWork
from recsys.training.optim import OptimConfig
from recsys.training.peak import SQUARE, Shape, measured_rate, sheet_rate
from recsys.training.precision import resolve_precision
from recsys.training.retriever import RetrieverTraining
from recsys.training.retriever_run import RetrieverRun, open_training
from recsys.training.run import TrainerConfig, fit, open_run, prepare_process

SHAPES: tuple[Shape, ...] = (SQUARE, (16384, 4096, 4096), (16384, 768, 3072), (16384, 3072, 768))
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "32-true": torch.float32}
SIDES = ("ours", "padded")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    text: TextConfig
    pairs: int
    batch: int
    steps: int
    warm: int
    turns: int
    shapes: tuple[Shape, ...]


BERT_BASE = Size(
    text=TextConfig(model="config:", mode="full", layers=12, width=768, heads=12, vocab=30_000, max_tokens=256),
    pairs=256 * 26, batch=256, steps=20, warm=4, turns=3, shapes=SHAPES,
)  # fmt: skip
TINY = Size(
    text=TextConfig(model="config:", mode="full", layers=2, width=32, heads=2, vocab=500, max_tokens=64),
    pairs=64, batch=16, steps=2, warm=1, turns=1, shapes=((64, 64, 64),),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of one side."""

    rows: float
    """Pairs or texts a second."""
    tokens: float
    """Real ones a second."""
    share: float
    """Of the peak."""
    memory: float
    """GiB that the device's allocator held at the most; on a CPU, the process."""

    @classmethod
    def median(cls, found: list[Self]) -> Self:
        """Of several turns, field by field."""
        columns = zip(*(asdict(one).values() for one in found), strict=True)
        return cls(**dict(zip(asdict(found[0]), map(statistics.median, columns), strict=True)))


class Meter(Callback):
    """Measures some steps of a training, after those that do not count, and ends it."""

    def __init__(self, size: Size, peak: float) -> None:
        self.size, self.peak = size, peak
        self.seen = self.rows = self.tokens = 0
        self.flops: Any = 0.0
        self.begin = 0.0
        self.found: Measured | None = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, _: int) -> None:
        self.seen += 1
        counts = self.seen - self.size.warm
        if counts > 0:
            self.rows, self.tokens = self.rows + batch.rows, self.tokens + batch.tokens
            self.flops = self.flops + pl_module.step_flops(batch)
        if counts == 0:
            start_memory(pl_module.device)
            self.begin = now(pl_module.device)
        if counts == self.size.steps:
            seconds = now(pl_module.device) - self.begin
            self.found = Measured(
                rows=self.rows / seconds, tokens=self.tokens / seconds, share=float(self.flops) / seconds / self.peak,
                memory=memory(pl_module.device),
            )  # fmt: skip
            trainer.should_stop = True


def now(device: torch.device) -> float:
    """Seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def start_memory(device: torch.device) -> None:
    """Forget what was held before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: torch.device) -> float:
    """GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return most_memory() / 2**10


def made_up_texts(count: int, seed: int, *, middle: int, shortest: int, longest: int) -> list[str]:
    """Texts of made-up words, their numbers of words log-normal, the words by Zipf's law."""
    rng = np.random.default_rng(seed)
    parts = np.array([a + b for a in "bcdfghjklmnprstvwz" for b in "aeiou"])
    words = np.array(sorted({"".join(parts[row]) for row in np.random.default_rng(0).integers(0, 90, (25_000, 3))}))
    lengths = np.clip(rng.lognormal(np.log(middle), 0.7, count).astype(int), shortest, longest)
    places = (len(words) ** rng.random(int(lengths.sum()))).astype(int) - 1
    return [" ".join(part) for part in np.split(words[places], np.cumsum(lengths)[:-1])]


def write_tables(folder: Path, count: int) -> None:
    """As many queries as items, one for each."""
    folder.mkdir()
    items = made_up_texts(count, 1, middle=64, shortest=8, longest=250)
    queries = made_up_texts(count, 2, middle=12, shortest=4, longest=40)
    rows = np.arange(count)
    pl.DataFrame({"item_id": rows, "text": items}).write_parquet(folder / "items.parquet")
    pl.DataFrame({"query_id": rows, "query": queries, "split": ["train"] * count}).write_parquet(
        folder / "queries.parquet"
    )
    pl.DataFrame({"query_id": rows, "item_id": rows}).write_parquet(folder / "relevance.parquet")


def run_of(folder: Path, size: Size, accelerator: str) -> RetrieverRun:
    """The training."""
    data = DataConfig(
        root=f"{folder}/tables", cache=f"{folder}/cache", tables={"interactions": "", "users": ""},
        items=ItemsConfig(text=["text"]), queries=QueriesConfig(), relevance=RelevanceConfig(),
        split=SplitConfig(by="column"),
    )  # fmt: skip
    return RetrieverRun(
        task="retriever", name="gpu", runs=str(folder), overwrite=True, data=data, tasks=["query_to_item"],
        model=RetrieverConfig(text=size.text, id_vector=False, history=None, normalize=True),
        negatives=NegativesConfig(kind="batch", random=0), loader=LoaderConfig(batch_size=size.batch),
        optim=OptimConfig(epochs=1), trainer=TrainerConfig(accelerator=accelerator, precision="auto"),
    )  # fmt: skip


def padded(encoder: TextEncoder, batch: TextBatch) -> torch.Tensor:
    """All texts at once, each as long as the longest."""
    return encoder.pool(encoder.states(batch), batch.mask)


def encodes(encoder: TextEncoder, side: str) -> None:
    """Have the encoder read as one of the sides does."""
    encoder.__dict__.pop("forward", None)
    if side == "padded":
        encoder.__dict__["forward"] = partial(padded, encoder)


def train(config: RetrieverRun, module: RetrieverTraining, rows: RetrieverRows, size: Size, peak: float) -> Measured:
    """Some steps."""
    meter = Meter(size, peak)
    open_run(config)
    data = DataModule(rows, lambda *_: [], config.loader, seed=config.seed)
    fit(config, module, data, steps=size.steps + size.warm, monitor="", checkpoint=None, more=[meter])
    assert meter.found is not None
    return meter.found


def encode(encoder: TextEncoder, tokens: Tokens, side: str, work: StepWork, size: Size, peak: float) -> Measured:
    """All items."""
    device, lengths = next(encoder.parameters()).device, tokens.lengths
    start_memory(device)
    begin = now(device)
    if side == "ours":
        encode_all(encoder, tokens.batch, lengths)
    else:
        with torch.no_grad():
            for rows in np.split(np.arange(len(lengths)), np.arange(size.batch, len(lengths), size.batch)):
                encoder(tokens.batch(rows).to(device)).cpu()
    seconds = now(device) - begin
    flops = (work.token * lengths.sum() + work.square * (lengths.astype(float) ** 2).sum()) / 3  # forward alone
    return Measured(
        rows=len(lengths) / seconds, tokens=float(lengths.sum()) / seconds, share=flops / seconds / peak,
        memory=memory(device),
    )  # fmt: skip


def by_sides(name: str, unit: str, turns: int, measure: Callable[[str], Measured]) -> dict[str, Any]:
    """Both sides by turns; a row of the table."""
    found: dict[str, list[Measured]] = {side: [] for side in SIDES}
    for _ in range(turns):
        for side in SIDES:
            found[side].append(measure(side))
    row: dict[str, Any] = {side: asdict(Measured.median(one)) for side, one in found.items()}
    for side in SIDES:
        one = row[side]
        print(f"{name:<10}{side:<8}{one['tokens']:>12,.0f} tokens/s{one['rows']:>10,.1f} {unit:<8}"
              f"MFU {one['share']:>6.1%}{one['memory']:>8.1f} GiB", flush=True)  # fmt: skip
    return {"name": name, "unit": unit, **row}


def measure(device: torch.device, size: Size, folder: Path) -> dict[str, Any]:
    """Everything."""
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    precision = resolve_precision("auto", accelerator)
    dtype = DTYPES[precision]
    peak = max(measured_rate(device, dtype, shape=shape, seconds=0.5) for shape in size.shapes)
    sheet = sheet_rate(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    print(f"matrix products in {precision}: {peak / 1e12:,.1f} TFLOP/s", flush=True)
    write_tables(folder / "tables", size.pairs)
    config = prepare_process(run_of(folder, size, accelerator))
    module, rows = open_training(config)
    encoder = module.model.text
    assert encoder is not None

    def trained(side: str) -> Measured:
        encodes(encoder, side)
        return train(config, module, rows, size, peak)

    training = by_sides("training", "pairs/s", size.turns, trained)
    texts = pl.read_parquet(folder / "tables/items.parquet")["text"].to_list()
    tokenizer = load_tokenizer(size.text, rows.features.data.words(), Path(config.data.cache) / "tokenizer")
    tokens = tokenize(texts, plain_backend(tokenizer, size.text.max_tokens), int(tokenizer.pad_token_id or 0))
    work = StepWork.of(module.model)
    encoder.to(device).eval()
    encoder.lower(dtype)

    def encoded(side: str) -> Measured:
        encodes(encoder, side)
        return encode(encoder, tokens, side, work, size, peak)

    encoded("ours")  # the first call of a shape chooses its kernels
    rows_of_table = [training, by_sides("encoding", "texts/s", size.turns, encoded)]
    return {"precision": precision, "peak": peak, "sheet": sheet, "rows": rows_of_table}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="where they are kept")
    asked = parser.parse_args(arguments)
    begin = time.perf_counter()
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("not measured: no CUDA GPU")
        keep("gpu", begin, asked.figures, not_measured="no CUDA GPU")
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(torch.device(asked.device), TINY if asked.tiny else BERT_BASE, Path(folder))
    keep("gpu", begin, asked.figures, **found)


if __name__ == "__main__":
    main()
