import json
import time
from pathlib import Path

import numpy as np
import torch
from measure import Comparison, EncoderShape, Spread, keep, peak_rate
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel


def test_flops_by_formula_are_those_that_torch_counts():
    shape = EncoderShape(layers=3, width=32, inner=48)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48,
        attn_implementation="eager",
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False)
    ids = torch.ones((4, 20), dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=ids)
    assert shape.forward_flops(np.full(4, 20)) == counter.get_total_flops()
    last = 2 * 80 * (4 * 32**2 + 2 * 32 * 48) + 4 * 4 * 20**2 * 32
    first = 2 * 80 * 2 * 32**2 + 2 * 4 * (2 * 32**2 + 2 * 32 * 48) + 4 * 80 * 32
    assert shape.forward_flops(np.full(4, 20), first=True) == counter.get_total_flops() - last + first


def test_ratios_are_of_pairs_of_turns():
    found = Comparison.of(
        "x", "fp32", "texts/s", [(1.0, 2.0), (2.0, 2.0), (4.0, 12.0)], count=10, flops=[8.0, 8.0, 16.0],
        peaks=[8.0, 4.0, 8.0], memory=(1.0, 2.0),
    )  # fmt: skip
    assert found.ratio == Spread(median=2.0, low=1.0, high=3.0, count=3)
    assert (found.ours, found.peer) == (5.0, 5.0)
    assert found.share == 1.0
    assert found.peer_share == 0.5
    assert "2.00 x (1.00 to 3.00)" in found.line()


def test_figures_are_kept_with_what_they_were_measured_on(tmp_path: Path):
    row = Comparison.of("x", "fp32", "texts/s", [(1.0, 2.0)], count=1, flops=1.0, peaks=[1.0], memory=(1.0, 2.0))
    found = json.loads(keep("some", time.perf_counter(), tmp_path, rows=[row], other=3).read_text())
    assert found["rows"][0]["ratio"]["median"] == 2.0
    assert found["other"] == 3
    assert found["machine"]["cores"] >= 1
    assert "torch" in found["versions"]


def test_the_peak_is_measured():
    assert peak_rate(torch.float32, shapes=[(64, 64, 64)], seconds=0.01) > 1e6
