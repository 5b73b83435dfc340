"""What ONNX, int8, small vectors and a student cost in nDCG@10, and what they gain in speed and size: one table.

    python benchmarks/compression.py --retriever=RUN [--pruner=RUN] [--student=RUN] [--candidates=100] [--depth=100]
        [--texts=512] [--lists=256] [--threads=1]

On the valid split of the retriever's data. Every line is a whole chain: text vectors, item vectors, candidates and,
with a pruner, its order. Beside torch's chain: the share of nDCG@10 that is kept, the share of requests with the same
first ten in the same order, and the largest difference in logit (the retriever's score over its temperature; the
pruner's own; for vectors, the score) of a candidate that both chains have. The pruner's is of requests for which both
chains propose the same candidates in the same order, for it reads a candidate's rank among them. Speed is the best of
three runs over the same batches on as many threads: texts of the catalogue, lists of the pruner; and one run of all
searches. A student is a retriever of its own.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recsys.batch import PrunerBatch
from recsys.config import read_part
from recsys.data.lists import assemble_lists, latest_only
from recsys.data.requests import Requests, join_requests, seen_items, validation_requests
from recsys.data.tokens import token_cache
from recsys.metrics.ranking import ndcg
from recsys.models.decision import DecisionConfig
from recsys.models.text import encode_all
from recsys.recommend.cascade import Cascade
from recsys.recommend.evaluate import list_ranks, padded
from recsys.retrieval.candidates import Found, trained_tasks
from recsys.retrieval.compress import BitCodes, ByteCodes, Codes, search_codes
from recsys.retrieval.export import export_onnx
from recsys.retrieval.index import set_search_threads
from recsys.retrieval.runtime import TORCH, Runtime, open_onnx
from recsys.tables import DataConfig

SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a chain says to all requests."""

    items: np.ndarray  # [R, K] int64, best first, -1 padded
    scores: np.ndarray  # [R, K] float32
    proposed: np.ndarray | None = None  # [R, K] the candidates in the order that the pruner has met them

    @classmethod
    def ordered(cls, items: np.ndarray, scores: np.ndarray) -> "Answers":
        """Candidates by these scores; equal ones stay as they stand."""
        order = np.argsort(-scores, axis=1, kind="stable")
        best = np.take_along_axis(items, order, 1)
        return cls(items=best, scores=np.take_along_axis(scores, order, 1), proposed=items)

    def ndcg(self, requests: Requests, total: int) -> float:
        """Mean over requests."""
        targets, grades = padded(requests)
        ranks = list_ranks(self.items[:, :SHOWN], targets, total)
        return float(ndcg(torch.from_numpy(ranks), torch.from_numpy(grades), SHOWN).nanmean())

    def same(self, other: "Answers") -> float:
        """Share of requests whose first ten are the same in the same order."""
        return float((self.items[:, :SHOWN] == other.items[:, :SHOWN]).all(axis=1).mean())

    def gap(self, other: "Answers", total: int) -> float:
        """Largest difference in score of a candidate that both have; NaN where no request has the same candidates."""
        dense = []
        for one in (self, other):
            table = np.full((len(one.items), total + 1), np.nan, dtype=np.float32)
            np.put_along_axis(table, np.where(one.items < 0, total, one.items), one.scores, 1)
            dense.append(table[:, :total])
        alike = np.ones(len(self.items), dtype=np.bool_)
        if self.proposed is not None and other.proposed is not None:
            alike = (self.proposed == other.proposed).all(1)
        return float(np.nanmax(np.abs(dense[0] - dense[1])[alike])) if alike.any() else float("nan")


@dataclass(frozen=True, kw_only=True)
class Line:
    """Of the table."""

    name: str
    answers: Answers
    rate: float
    unit: str
    megabytes: float


def print_table(lines: list[Line], requests: Requests, total: int) -> None:
    """The first line is what the others are compared with."""
    first = lines[0]
    whole = first.answers.ndcg(requests, total)
    head = ("", "nDCG@10", "kept", "same top 10", "logit gap", "speed", "", "times", "MB")
    print("{:34} {:>8} {:>8} {:>11} {:>10} {:>9} {:12} {:>6} {:>8}".format(*head))
    for line in lines:
        value, times = line.answers.ndcg(requests, total), line.rate / first.rate
        same, gap = line.answers.same(first.answers), line.answers.gap(first.answers, total)
        print(
            f"{line.name:34} {value:8.4f} {value / whole:8.2%} {same:11.2%} {gap:10.1e} {line.rate:9,.0f} "
            f"{line.unit:12} {times:6.2f} {line.megabytes:8.2f}"
        )


def best_of(call: Callable[[], object], times: int = 3) -> float:
    """Seconds."""
    call()
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return min(found)


def size(path: Path) -> float:
    """Megabytes of a file."""
    return path.stat().st_size / 1e6


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A cascade and all that it said."""

    cascade: Cascade
    found: Found
    logits: np.ndarray | None

    @classmethod
    def run(cls, retriever: str, pruner: str | None, runtime: Runtime, options: argparse.Namespace) -> "Chain":
        """Open, and answer the valid requests."""
        data = read_part(Path(retriever) / "config.yaml", "data", DataConfig)
        assert data is not None
        cascade = Cascade.open(retriever, pruner, data, options.candidates, DecisionConfig(), runtime=runtime)
        found, logits = cascade.judge(valid_requests(cascade, retriever))
        return cls(cascade=cascade, found=found, logits=logits)

    def retrieved(self) -> Answers:
        """The retriever's lists; scores over the temperature, as it is trained with them."""
        scale = float(self.cascade.retriever.model.scale)
        return Answers(items=self.found.items, scores=scale * self.found.scores)

    def pruned(self) -> Answers:
        """The pruner's order of them."""
        assert self.logits is not None
        return Answers.ordered(self.found.items, self.logits)

    def text_rate(self, count: int) -> float:
        """Texts of the catalogue that are encoded in a second."""
        words = self.cascade.retriever.words
        assert words is not None
        texts = self.cascade.data.catalogue.texts[:count]
        tokens = token_cache(texts, words.tokenizer, words.encoder.max_tokens, words.cache)
        return len(texts) / best_of(lambda: encode_all(words.encoder, tokens.batch, tokens.lengths))

    @torch.inference_mode()
    def list_rate(self, requests: Requests, count: int, batch_size: int = 64) -> float:
        """Candidates that the pruner judges in a second; making the batches is left out."""
        pruner, batches = self.cascade.pruner, self.batches(requests, count, batch_size)
        assert pruner is not None
        judged = sum(int((one.candidate >= 0).sum()) for one in batches)
        return judged / best_of(lambda: [pruner.model.judge(one) for one in batches])

    def batches(self, requests: Requests, count: int, batch_size: int) -> list[PrunerBatch]:
        """Of the first requests and their candidates."""
        pruner, found = self.cascade.pruner, self.found
        assert pruner is not None
        features = latest_only(pruner.features, pruner.model.config.history)
        count = min(count, len(requests))
        blocks = np.split(np.arange(count), range(batch_size, count, batch_size))
        return [
            assemble_lists(
                features, requests.take(rows), found.items[rows], found.scores[rows], np.zeros(found.items[rows].shape),
                self.cascade.item_vectors, found.users[rows], pruner.pairs,
            )
            for rows in blocks
        ]  # fmt: skip

    def search_line(self, name: str, codes: Codes | None, requests: Requests, options: argparse.Namespace) -> Line:
        """Exact search, or by codes and anew."""
        vectors, users, seen = self.cascade.item_vectors, self.found.users, seen_items(self.cascade.data, requests)

        def search() -> tuple[np.ndarray, np.ndarray]:
            if codes is None:
                return self.cascade.index.search(users, options.candidates, seen)
            return search_codes(codes, vectors, users, options.candidates, depth=options.depth, seen=seen)

        items, scores = search()
        return Line(
            name=f"vectors, {name}", answers=Answers(items=items, scores=scores), unit="requests/s",
            rate=len(users) / best_of(search, times=1),
            megabytes=(vectors if codes is None else codes).nbytes / 1e6,
        )  # fmt: skip


def valid_requests(cascade: Cascade, retriever: str) -> Requests:
    """Of the tasks that the retriever was trained for."""
    return join_requests(list(validation_requests(cascade.data, trained_tasks(Path(retriever))).values()))


def main() -> None:
    """Run every chain, and print the table of each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retriever", required=True)
    for name in ("pruner", "student"):
        parser.add_argument(f"--{name}")
    for name, value in (("candidates", 100), ("depth", 100), ("texts", 512), ("lists", 256), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_search_threads(options.threads)
    retriever, pruner = options.retriever, options.pruner
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "onnx"
        models = Path(retriever) / "model", Path(pruner) / "model" if pruner else None
        export_onnx(*models, folder, int8=True, overwrite=False)
        runtimes = {"torch": TORCH, "ONNX": open_onnx(folder, int8=False), "ONNX int8": open_onnx(folder, int8=True)}
        chains = {name: Chain.run(retriever, pruner, one, options) for name, one in runtimes.items()}
        compare(chains, folder, options)


def compare(chains: dict[str, Chain], folder: Path, options: argparse.Namespace) -> None:
    """Print all tables."""
    plain = chains["torch"]
    requests, total = valid_requests(plain.cascade, options.retriever), len(plain.cascade.data.catalogue)
    print(f"{len(requests):,} requests, {total:,} items, {options.threads} thread(s)\n")
    print_table(text_lines(chains, folder, options), requests, total)
    vectors = plain.cascade.item_vectors
    kinds = {"float32": None, "int8, scored anew": ByteCodes.of(vectors), "bits, scored anew": BitCodes.of(vectors)}
    print()
    print_table([plain.search_line(name, one, requests, options) for name, one in kinds.items()], requests, total)
    if options.pruner is not None:
        print()
        print_table(pruner_lines(chains, folder, requests, options), requests, total)


def text_lines(chains: dict[str, Chain], folder: Path, options: argparse.Namespace) -> list[Line]:
    """Of each runtime, and of the student."""
    weights = "model/text/model.safetensors"
    files = {"torch": Path(options.retriever) / weights, "ONNX": folder / "text.onnx"}
    files["ONNX int8"] = folder / "text.int8.onnx"
    if options.student is not None:
        chains = {**chains, "student": Chain.run(options.student, None, TORCH, options)}
        files["student"] = Path(options.student) / weights
    return [
        Line(
            name=f"retriever, {name}", answers=one.retrieved(), rate=one.text_rate(options.texts), unit="texts/s",
            megabytes=size(files[name]),
        )
        for name, one in chains.items()
    ]  # fmt: skip


def pruner_lines(chains: dict[str, Chain], folder: Path, requests: Requests, options: argparse.Namespace) -> list[Line]:
    """Of each runtime."""
    model = Path(options.pruner) / "model"
    pruner = chains["torch"].cascade.pruner
    assert pruner is not None
    own = model / ("model.safetensors" if pruner.model.joint is not None else "text/model.safetensors")
    files = {"torch": own, "ONNX": folder / "pruner.onnx", "ONNX int8": folder / "pruner.int8.onnx"}
    return [
        Line(
            name=f"pruner, {name}", answers=one.pruned(), rate=one.list_rate(requests, options.lists),
            unit="candidates/s", megabytes=size(files[name]),
        )
        for name, one in chains.items()
    ]  # fmt: skip


if __name__ == "__main__":
    main()
