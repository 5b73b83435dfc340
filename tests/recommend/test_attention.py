"""Attention weights as they are watched, against what attention does with them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recsys.data.requests import serving_requests
from recsys.recommend.attention import history_attention, watched
from recsys.recommend.counterfactual import Counterfactuals
from recsys.recommend.words import Words


@pytest.mark.parametrize("kind", ["plain", "causal", "masked", "added"])
def test_the_weights_times_the_values_are_what_attention_gives(kind):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 1, 5, 4) for _ in range(3))
    mask = torch.rand(2, 1, 5, 5) > 0.3
    mask |= torch.eye(5, dtype=torch.bool)
    more = {
        "plain": {}, "causal": {"is_causal": True}, "masked": {"attn_mask": mask},
        "added": {"attn_mask": torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)},
    }[kind]  # fmt: skip
    with watched() as weights:
        found = F.scaled_dot_product_attention(query, key, value, **more)
    (one,) = weights
    torch.testing.assert_close(one[:, None] @ value, found)
    F.scaled_dot_product_attention(query, key, value)
    assert len(weights) == 1  # only in the block


def test_a_history_is_attended_to_entry_by_entry(served):
    without = Counterfactuals(served, serving_requests(served.data, "valid", np.arange(4)), Words())
    found = history_attention(without, [2, 0])
    for request, weights in zip((2, 0), found, strict=True):
        past = without.pasts[request]
        assert set(weights) == {int(i) if i >= 0 else -2 - int(q) for i, q in zip(past.item, past.query, strict=True)}
        assert 0 < sum(weights.values()) < 1  # the rest is for the start of the history
