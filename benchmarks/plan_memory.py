"""What `recsys plan` says of memory beside what a process on this machine takes: one step, float32, CPU.

    python benchmarks/plan_memory.py [--batch=256]

A BERT of 6 layers and width 384 from scratch on the demo shop. Measured is the peak of resident memory in two steps
with AdamW, above that before the first one.
"""

import argparse
import resource
import tempfile
from pathlib import Path

import torch

from recsys.config import TextConfig
from recsys.data.datasets import NegativesConfig
from recsys.data.sampling import Draw, deal_batches
from recsys.data.sources.shop import write_shop
from recsys.models.towers import RetrieverConfig
from recsys.tables.config import DataConfig, ItemsConfig, QueriesConfig, RelevanceConfig
from recsys.training.plan import Machines, plan
from recsys.training.retriever_run import RetrieverRun, open_training
from recsys.training.run import LoaderConfig


def run_of(folder: Path, batch: int) -> RetrieverRun:
    """Queries and items through one encoder, in-batch negatives."""
    data = DataConfig(
        root=str(folder / "shop"), cache=str(folder / "cache"), tables={"interactions": "", "users": ""},
        items=ItemsConfig(text=["title", "description"]), queries=QueriesConfig(),
        relevance=RelevanceConfig(grade="grade"),
    )  # fmt: skip
    text = TextConfig(model="config:", mode="full", layers=6, width=384, heads=12, max_tokens=64)
    return RetrieverRun(
        task="retriever", name="x", data=data, tasks=["query_to_item"], loader=LoaderConfig(batch_size=batch),
        model=RetrieverConfig(text=text, id_vector=False, history=None, normalize=True),
        negatives=NegativesConfig(kind="batch", random=0),
    )  # fmt: skip


def highest() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Foretell, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    batch = parser.parse_args().batch
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_shop(folder / "shop", size=2000)
        config = run_of(folder, batch)
        module, rows = open_training(config)
        module.log = lambda *args, **kwargs: None  # pyright: ignore[reportAttributeAccessIssue]
        found = plan(config, module, rows, Machines(each=1, kind="A100", nodes=1, efficiency=0.3))
        foretold = sum(size for name, size in found.memory.items() if name != "weights") / 2**20
        optimizer = torch.optim.AdamW([weight for weight in module.parameters() if weight.requires_grad])
        dealt = deal_batches(rows.lengths(0), rows.groups(), batch_size=batch, bucket=16, seed=0, epoch=0)
        made = rows.assemble(Draw(epoch=0, number=0, rows=dealt[0]))
        before = highest()
        for _ in range(2):
            optimizer.zero_grad()
            module.training_step(made, 0).backward()
            optimizer.step()
        measured = highest() - before
    print(f"foretold {foretold:.0f} MiB, measured {measured:.0f} MiB, ratio {foretold / measured:.3f}")


if __name__ == "__main__":
    main()
