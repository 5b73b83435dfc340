"""Sums of best matches, against loops over tokens."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from recsys.models.late import best_matches

WIDTH = 6


@pytest.mark.parametrize("unused", [0, 6])
def test_a_score_is_the_mean_over_the_requests_tokens_of_the_best_cosine(unused: int) -> None:
    """With many texts that a request does not ask for, and without."""
    torch.manual_seed(0)
    lengths, sizes = torch.tensor([3, 1, 4]), [2, 5, 1, 3, *[4] * unused]
    first = torch.randn(int(lengths.sum()), WIDTH, dtype=torch.float64)
    second = torch.randn(len(sizes), 5, WIDTH, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor(sizes)[:, None]
    rows = torch.tensor([[3, 1, 1], [0, 2, 3], [2, 2, 0]])
    found = best_matches(first, lengths, second, mask, rows)
    for request, words in enumerate(first.split(lengths.tolist())):
        for place, text in enumerate(rows[request].tolist()):
            others = second[text, : sizes[text]]
            best = [max(float(cosine_similarity(word, other, dim=0)) for other in others) for word in words]
            torch.testing.assert_close(float(found[request, place]), sum(best) / len(best))


def test_padding_gets_no_gradient() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, WIDTH), torch.randn(2, 3, WIDTH, requires_grad=True)
    mask = torch.tensor([[True, False, False], [True, True, True]])
    best_matches(first, torch.tensor([2]), second, mask, torch.tensor([[0, 1]])).sum().backward()
    assert second.grad is not None
    assert not second.grad[~mask].any()
    assert second.grad[mask].abs().sum() > 0
