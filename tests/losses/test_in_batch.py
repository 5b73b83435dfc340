import pytest
import torch
from torch.nn import functional as F

from recsys.losses.in_batch import first_seen, listed_columns, sampled_softmax

B, N, R, D = 4, 11, 9, 6
NEVER = torch.iinfo(torch.int32).max


def make(dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """Nine rows of four users against eleven items; targets repeat."""
    torch.manual_seed(0)
    return {
        "users": torch.randn(R, D, dtype=dtype, requires_grad=True),
        "items": torch.randn(N, D, dtype=dtype, requires_grad=True),
        "scale": torch.tensor(0.7, dtype=dtype, requires_grad=True),
        "target": torch.tensor([3, 3, 0, 10, 5, 5, 5, 1, 2]),
        "row": torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 3]),
        "step": torch.tensor([0, 2, 0, 1, 3, 1, 2, 0, 4]),
        "seen": first_seen(
            B, N, torch.tensor([0, 0, 1, 1, 2, 3, 3]), torch.tensor([3, 7, 0, 10, 5, 4, 4]),
            torch.tensor([1, 2, 1, 2, 0, 4, 1]),
        ),
    }  # fmt: skip


def plain(batch: dict[str, torch.Tensor], log_q: torch.Tensor | None = None) -> torch.Tensor:
    """The formula, one logit at a time for the masks, and torch's own cross-entropy."""
    logits = batch["scale"] * batch["users"] @ batch["items"].T
    logits = logits if log_q is None else logits - log_q
    masked = torch.zeros(R, N, dtype=torch.bool)
    for r in range(R):
        for j in range(N):
            had = batch["seen"][batch["row"][r], j] <= batch["step"][r]
            masked[r, j] = bool(had) and j != int(batch["target"][r])
    return F.cross_entropy(logits.masked_fill(masked, float("-inf")), batch["target"])


def gradients(loss: torch.Tensor, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [batch["users"], batch["items"], batch["scale"]]))


@pytest.mark.parametrize("block", [1, 2, 4, 9, 512])
@pytest.mark.parametrize("corrected", [False, True])
def test_the_blocked_loss_is_plain_cross_entropy_in_value_and_gradient(block: int, corrected: bool) -> None:
    batch = make()
    log_q = torch.randn(N, dtype=torch.float64) if corrected else None
    loss, expected = sampled_softmax(**batch, log_q=log_q, block=block), plain(batch, log_q)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    for found, wanted in zip(gradients(3 * loss, batch), gradients(3 * expected, batch), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_an_item_that_the_user_already_has_is_no_negative_from_its_step_on() -> None:
    batch = make()
    gradient = gradients(sampled_softmax(**batch), batch)[1]
    seen_by_all = first_seen(B, N, torch.arange(B), torch.full((B,), 7), torch.zeros(B, dtype=torch.int64))
    assert gradient[7].abs().sum() > 0  # user 0 alone has it, and only from step 2 on
    gradient = gradients(sampled_softmax(**{**batch, "seen": seen_by_all}), batch)[1]
    assert gradient[7].abs().sum() == 0


def test_the_target_is_never_masked_though_the_user_has_it() -> None:
    batch = make()
    everything = torch.zeros(B, N, dtype=torch.int32)
    loss = sampled_softmax(**{**batch, "seen": everything})
    assert loss.item() == 0.0  # nothing but the target is left of each row
    assert all(float(gradient.abs().max()) == 0 for gradient in gradients(loss, batch))


def test_an_item_had_twice_counts_from_the_first_time() -> None:
    seen = first_seen(2, 3, torch.tensor([1, 1, 0]), torch.tensor([2, 2, 0]), torch.tensor([5, 3, 0]))
    assert seen.tolist() == [[0, NEVER, NEVER], [NEVER, NEVER, 3]]


def test_nobody_having_anything_masks_nothing() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert first_seen(2, 3, none, none, none).eq(NEVER).all()


def test_products_in_bfloat16_are_near_those_in_float32() -> None:
    batch = make(torch.float32)
    exact, rough = (sampled_softmax(**batch, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)
    for found, wanted in zip(gradients(rough, batch), gradients(exact, batch), strict=True):
        assert F.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.999
        assert found.dtype == torch.float32


def test_autocast_around_the_loss_changes_nothing() -> None:
    batch = make(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = sampled_softmax(**batch)
    assert torch.equal(inside, sampled_softmax(**batch))


def test_large_scores_do_not_overflow() -> None:
    batch = make(torch.float32)
    loss = sampled_softmax(**{**batch, "users": batch["users"] * 1e4})
    assert torch.isfinite(loss)


def test_no_rows_have_no_loss_and_gradients_of_zero() -> None:
    batch = make()
    none = torch.zeros(0, dtype=torch.int64)
    loss = sampled_softmax(**{**batch, "users": batch["users"][:0], "target": none, "row": none, "step": none})
    assert loss.item() == 0.0
    assert float(torch.autograd.grad(loss, batch["items"])[0].abs().max()) == 0


@pytest.mark.parametrize("block", [1, 4, 512])
@pytest.mark.parametrize("depth", [10, 4, 2])
def test_a_list_is_the_best_allowed_columns_around_a_target_that_is_among_them(block: int, depth: int) -> None:
    batch = make()
    del batch["scale"]
    columns, masked = listed_columns(**batch, depth=depth, count=depth, block=block)
    scores = (batch["users"] @ batch["items"].T).tolist()
    nothing = 0
    for r in range(R):
        own, seen = int(batch["target"][r]), batch["seen"][batch["row"][r]] <= batch["step"][r]
        others = sorted((j for j in range(N) if j != own and not seen[j]), key=lambda j: -scores[r][j])[:depth]
        inside = depth == N - 1 or len(others) < depth or scores[r][own] >= scores[r][others[-1]]
        assert columns[r][~masked[r]].tolist() == [own, *(others if inside else [])]
        nothing += not inside
    assert (nothing > 0) == (depth < 10)


def test_every_second_place_of_a_list_is_taken_from_the_first_or_second_on() -> None:
    batch = make()
    del batch["scale"]
    whole, _ = listed_columns(**batch, depth=6, count=6)
    half, _ = listed_columns(**batch, depth=6, count=3)
    for r in range(R):
        first = int(batch["target"][r] + batch["step"][r]) % 2
        assert half[r].tolist() == [whole[r, 0], *whole[r, 1 + first :: 2]]


def test_no_rows_have_no_lists() -> None:
    batch = {**make(), "users": torch.zeros(0, D, dtype=torch.float64)}
    batch |= {name: batch[name][:0] for name in ("target", "row", "step")}
    del batch["scale"]
    columns, masked = listed_columns(**batch, depth=3, count=3)
    assert columns.shape == masked.shape == (0, 4)
