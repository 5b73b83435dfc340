"""How time and memory of each stage grow with its input, from once to sixteen times: start-up subtracted, and fitted.

    python benchmarks/growth.py [--stages prepare train embed index recommend] [--turns=3] [--size=1.0] [--folder=DIR]

Each measurement is a process of its own; its seconds begin after the imports, and its memory is the most that it held,
pages of mapped files left out. Start-up is what the stage takes for little (100 rows, one pair, 250 items to embed, 16
to index, 16 users), and both that time and that input are subtracted: the exponent is the slope of log(seconds) over
log(size) of what is left, by least squares on medians of --turns rounds; sizes take turns within a round. 1 is linear.

prepare: rows of a log, as in benchmarks/prepare.py, up to the first batch and the requests of validation. train: pairs
of a step that trains MiniLM in full on the demo shop with in-batch negatives. embed: items with texts of 6 to 24 words
by MiniLM. index: vectors of width 64 in clusters, as in benchmarks/inference.py, tuned and measured. recommend: users
of 10,000 such items, lists of 100.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from inference import shop_texts, some_users, stage, write_stream, write_text
from measure import FIGURES, THREADS, keep
from memory import own_memory
from prepare import write_tables
from turns import settings

TIMES = (1, 2, 4, 8, 16)
BASE = {"prepare": 200_000, "train": 8, "embed": 1000, "index": 10_000, "recommend": 10_000}
"""Size of each stage's input, once."""
UNITS = {"prepare": "rows", "train": "pairs a step", "embed": "items", "index": "items", "recommend": "users"}
LEAST = {"prepare": 100, "train": 1, "embed": 250, "index": 16, "recommend": 16}
"""Size that counts as start-up: enough for every part of the stage to have been used."""
WIDTH, CLUSTERS, ITEMS = 64, 200, 10_000
STEPS = 3

Measured = dict[str, float]
"""`seconds` and `own` (MiB) of one process."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Of one stage."""

    stage: str
    unit: str
    sizes: list[int]
    seconds: list[float]
    """Medians, start-up included."""
    start: float
    """Seconds of start-up, the median: those of `least`."""
    least: int
    memory: list[float]
    """MiB."""
    exponent: float
    error: float
    """Standard error of the slope."""

    @classmethod
    def of(cls, name: str, sizes: Sequence[int], rounds: Sequence[Sequence[Measured]]) -> Self:
        """From rounds of measurements: the one of start-up, then one of each size."""
        seconds = [statistics.median(one["seconds"] for one in column) for column in zip(*rounds, strict=True)]
        memory = [statistics.median(one["own"] for one in column) for column in zip(*rounds, strict=True)]
        slope, error = fitted_exponent(np.array(sizes) - LEAST[name], np.array(seconds[1:]) - seconds[0])
        return cls(
            stage=name, unit=UNITS[name], sizes=list(sizes), seconds=seconds[1:], start=seconds[0], least=LEAST[name],
            memory=memory[1:], exponent=slope, error=error,
        )  # fmt: skip

    def line(self) -> str:
        """For the terminal."""
        took = "".join(f"{one:>9.2f}" for one in self.seconds)
        grown = self.memory[-1] / self.memory[0]
        return (
            f"{self.stage:<10}{self.start:>8.2f}{took}   {self.exponent:.3f} +- {self.error:.3f}   memory x {grown:.3f}"
        )


def fitted_exponent(sizes: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Slope of log(seconds) over log(size) by least squares, and its standard error; nan where a time is below zero."""
    if (seconds <= 0).any():
        return float("nan"), float("nan")
    x, y = np.log(sizes), np.log(seconds)
    x, y = x - x.mean(), y - y.mean()
    slope = float((x * y).sum() / (x * x).sum())
    rest = y - slope * x
    return slope, float(np.sqrt((rest**2).sum() / max(len(x) - 2, 1) / (x * x).sum()))


def worker(name: str, folder: Path, size: int) -> Measured:
    """A process of this file that measures itself."""
    command = [sys.executable, __file__, "--measure", name, str(size), str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, size: int, folder: Path) -> Measured:
    """What such a process does."""
    with own_memory() as own:
        if name == "prepare":
            from prepare import measure as prepare_measured

            seconds = sum(took for _, took, _ in prepare_measured(folder))
        else:
            seconds = train_step(size, folder)
    return {"seconds": seconds, "own": own[0]}


def train_step(batch: int, folder: Path) -> float:
    """Seconds of a training step: the median of three, after two that do not count."""
    import torch
    from scaling import run_of

    from recsys.data.sampling import Draw
    from recsys.heap import keep_freed_memory
    from recsys.training.retriever_run import open_training

    keep_freed_memory()
    torch.set_num_threads(THREADS)
    module, rows = open_training(run_of(folder))
    module.log, module.told = (lambda *_, **__: None), True
    optimizer = torch.optim.AdamW([weight for weight in module.parameters() if weight.requires_grad], lr=1e-5)
    seconds = []
    for number in range(STEPS + 2):
        chosen = np.random.default_rng(number).permutation(len(rows.groups()))[:batch]
        begin = time.perf_counter()
        made = rows.assemble(Draw(epoch=0, number=number, rows=chosen))
        optimizer.zero_grad()
        module.training_step(made, 0).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[2:])


def prepared(folder: Path, size: int) -> Callable[[int], Measured]:
    """A log of this size; the same work each time, in a cache of its own."""
    write_tables(folder / "tables", size, max(size // 10, 10), max(size // 10, 10))

    def work(number: int) -> Measured:
        place = folder / f"round{number}"
        place.mkdir()
        (place / "tables").symlink_to(folder / "tables")
        return worker("prepare", place, size)

    return work


def trained(folder: Path, size: int) -> Callable[[int], Measured]:
    """Steps of this many pairs."""
    from scaling import run_of

    from recsys.data.sources.shop import write_shop
    from recsys.training.retriever_run import open_training

    if not (folder.parent / "shop").is_dir():
        write_shop(folder.parent / "shop", size=1000)
        open_training(run_of(folder.parent))  # the caches
    return lambda _: worker("train", folder.parent, size)


def embedded(folder: Path, size: int) -> Callable[[int], Measured]:
    """Items with texts."""
    config = write_text(folder, shop_texts(size, 5, longest=24))
    return lambda number: stage("embed", config, f"--data.cache={folder}/cache{number}", f"--runs={folder}/run{number}")


def indexed(folder: Path, size: int) -> Callable[[int], Measured]:
    """Items with vectors, which are there already."""
    config = write_stream(folder, size, 16, WIDTH, CLUSTERS)

    def work(number: int) -> Measured:
        place = f"--runs={folder}/run{number}"
        stage("embed", config, place)
        return stage("index", config, place)

    return work


def recommended(folder: Path, size: int) -> Callable[[int], Measured]:
    """Lists for so many users; vectors and index are there already."""
    place = folder.parent / "recommend"
    if not place.is_dir():
        config = write_stream(place, ITEMS, BASE["recommend"] * TIMES[-1], WIDTH, CLUSTERS)
        for name in ("embed", "index"):
            stage(name, config)
    return lambda _: stage("recommend", place / "infer.yaml", *some_users(place, size), "--overwrite=true")


MAKERS: dict[str, Callable[[Path, int], Callable[[int], Measured]]] = {
    "prepare": prepared, "train": trained, "embed": embedded, "index": indexed, "recommend": recommended,
}  # fmt: skip


def grown(name: str, folder: Path, turns: int, scale: float) -> Growth:
    """Measure one stage at all sizes."""
    sizes = [max(round(BASE[name] * scale), 2 * LEAST[name]) * times for times in TIMES]
    works = []
    for number, size in enumerate((LEAST[name], *sizes)):
        place = folder / f"{name}{number}"
        place.mkdir(parents=True)
        works.append(MAKERS[name](place, size))
    return Growth.of(name, sizes, [[work(number) for work in works] for number in range(turns)])


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=list(BASE), default=list(BASE))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--size", type=float, default=1.0, help="times the sizes")
    parser.add_argument("--folder", help="where tables are made, and removed")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="where they are kept")
    asked = parser.parse_args(arguments)
    begin, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory(dir=asked.folder) as place, settings(THREADS):
        for name in asked.stages:
            rows.append(grown(name, Path(place), asked.turns, asked.size))
    print(f"{'':<10}{'start':>8}" + "".join(f"{f'x{times}':>9}" for times in TIMES) + "   exponent")
    print("\n".join(row.line() for row in rows))
    keep("growth", begin, asked.figures, rows=rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
    else:
        main()
