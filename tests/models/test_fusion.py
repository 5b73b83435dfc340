"""The ways to fuse sources: one signature, the sum at the start, and every weight used."""

import pytest
import torch

from recsys.models.fusion import make_fusion

KINDS = ("sum", "concat", "gated", "attention")


@pytest.mark.parametrize("kind", KINDS)
def test_every_fusion_starts_as_the_sum(kind):
    torch.manual_seed(0)
    tokens = torch.randn(3, 2, 5, 8)
    torch.testing.assert_close(make_fusion(kind, 5, 8)(tokens.unbind(-2)), tokens.sum(-2))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_every_weight_of_a_fusion_that_has_learnt_has_a_gradient(kind):
    torch.manual_seed(0)
    fusion = make_fusion(kind, 4, 8)
    for weight in fusion.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    fusion(torch.randn(6, 4, 8).unbind(-2)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in fusion.parameters())


@pytest.mark.parametrize("kind", ["concat", "gated", "attention"])
def test_what_a_source_adds_can_depend_on_the_others(kind):
    torch.manual_seed(0)
    fusion = make_fusion(kind, 3, 8)
    for weight in fusion.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    tokens, changed = torch.randn(1, 3, 8), torch.randn(8)

    def added(other: torch.Tensor) -> torch.Tensor:
        one = torch.cat([tokens[:, :1], other, tokens[:, 2:]], dim=1)
        more = one + torch.nn.functional.pad(changed[None, None], (0, 0, 0, 2))
        return fusion(more.unbind(-2)) - fusion(one.unbind(-2))

    assert (added(tokens[:, 1:2]) - added(-tokens[:, 1:2])).abs().max() > 1e-3


def test_candidates_are_fused_each_by_itself():
    torch.manual_seed(0)
    fusion, tokens = make_fusion("attention", 3, 8), torch.randn(4, 3, 8)
    torch.nn.init.normal_(fusion.out.weight)
    torch.testing.assert_close(fusion(tokens.unbind(-2))[2:3], fusion(tokens[2:3].unbind(-2)))
