"""Sampled softmax over in-batch, catalogue or all items: one loss for next-item and query-to-item.

L = 1/R sum_r [ log sum_j exp(z_rj) - z_r,target ],   z_rj = s u_r . v_j - log q_j
over the columns j that are not masked for row r. `log q` corrects for popular items standing in the batch more often
(Bengio and Senecal 2008; Yi et al. 2019, eq. 3); the target's own column is corrected too, as there.
Masked are items that the row's user already had (false negatives), by id, never the target itself.
"""

from typing import Any

import torch
from torch import Tensor


def log_chance(missed: Tensor, draws: Tensor) -> Tensor:
    """[n] float32 log of each item's chance to stand in a batch, for `sampled_softmax`.

    log(1 - product over sources s of (1 - p_js)^draws_s), with p_js the chance that one draw of s brings item j.

    Args:
        missed: [n, S] float64, log(1 - p_js).
        draws: [S] how often each source is drawn from.
    """
    return (-torch.expm1(missed @ draws.to(missed.dtype))).clamp_min(1e-9).log().float()


def first_seen(rows: int, items: int, seen_row: Tensor, seen_item: Tensor, seen_step: Tensor) -> Tensor:
    """[B, n] int32: the step from which on user b has item j; a huge number where never."""
    never = torch.iinfo(torch.int32).max
    table = torch.full((rows * items,), never, dtype=torch.int32, device=seen_row.device)
    where = seen_row * items + seen_item
    return table.scatter_reduce(0, where, seen_step.to(torch.int32), "amin").view(rows, items)


def sampled_softmax(
    users: Tensor,
    items: Tensor,
    target: Tensor,
    *,
    scale: Tensor,
    seen: Tensor,
    row: Tensor,
    step: Tensor,
    log_q: Tensor | None = None,
    block: int = 512,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean loss over R rows.

    Args:
        users: [R, D] user vectors.
        items: [n, D] item vectors, the columns.
        target: [R] column of each row's positive.
        scale: scalar, the inverse temperature.
        seen: [B, n] from `first_seen`; row r masks column j when seen[row[r], j] <= step[r].
        row: [R] row of `seen`.
        step: [R] number of history entries before the target.
        log_q: [n] log chance of each column to stand in the batch, or None.
        block: rows whose logits exist at one time; memory is block x n.
        dtype: of the matrix products; sums, exponentials and the softmax are float32 or wider. Float64 vectors keep
            float64 throughout.

    Returns:
        Scalar; 0 for no rows. Its gradient reaches users, items and scale, and nothing else.
    """
    arguments = (users, items, scale, target, seen, row, step, log_q, block, dtype)
    return _BlockedSoftmax.apply(*arguments)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


@torch.no_grad()
def listed_columns(
    users: Tensor, items: Tensor, target: Tensor, *, depth: int, count: int, seen: Tensor, row: Tensor, step: Tensor,
    block: int = 512,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Each row's own column and `count` of the `depth` that score best beside it, where its own is among the best too.

    A row whose own column is not in its list of 1 + `depth` has nothing: it would be told apart from what scores better
    than it alone, and learn that a good score is a bad sign. Of the list every (depth / count)-th place is taken, from
    another one on in each row.

    Args:
        users, items, target, seen, row, step, block: as in `sampled_softmax`.
        depth: length of a list, without the row's own column.
        count: columns that are taken of it.

    Returns:
        columns [R, 1 + count], the target first; and [R, 1 + count] which are masked: all but the target of a row that
        has nothing. A step with fewer columns gives fewer.
    """
    depth = min(depth, len(items) - 1)
    count = min(count, depth)
    found = [torch.empty(0, 1 + count, dtype=torch.int64, device=users.device)]
    lost = [torch.empty(0, 1 + count, dtype=torch.bool, device=users.device)]
    every = torch.arange(count, device=users.device) * (depth // max(count, 1))
    with torch.autocast(users.device.type, enabled=False):
        for start in range(0, len(users), block):
            rows = slice(start, start + block)
            scores, own = users[rows] @ items.T, target[rows, None]
            masked = (seen[row[rows]] <= step[rows, None]).scatter(1, own, True)
            best = scores.masked_fill(masked, float("-inf")).topk(depth, dim=1)
            place = every + ((own + step[rows, None]) % max(depth // max(count, 1), 1))
            inside = (scores.gather(1, own) >= best.values[:, -1:]) | (depth == len(items) - 1)
            gone = best.values.gather(1, place).isneginf() | ~inside
            found.append(torch.cat([own, best.indices.gather(1, place)], dim=1))
            lost.append(torch.cat([torch.zeros_like(inside), gone], dim=1))
    return torch.cat(found), torch.cat(lost)


class _BlockedSoftmax(torch.autograd.Function):
    """Loss and gradient in one pass over blocks of rows, so that the [R, n] logits never exist at once.

    The gradient of softmax cross-entropy, (p - onehot) / R, is at hand in the forward pass; backward only scales it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        items: Tensor,
        scale: Tensor,
        target: Tensor,
        seen: Tensor,
        row: Tensor,
        step: Tensor,
        log_q: Tensor | None,
        block: int,
        dtype: torch.dtype,
    ) -> Tensor:
        wide = torch.promote_types(users.dtype, torch.float32)
        product = users.dtype if users.dtype == torch.float64 else dtype
        scaled = (users * scale).to(product)
        columns = items.to(product)
        grad_scaled = torch.empty(users.shape, dtype=wide, device=users.device)
        grad_items = torch.zeros(items.shape, dtype=wide, device=items.device)
        total = torch.zeros((), dtype=torch.float64, device=users.device)
        with torch.autocast(users.device.type, enabled=False):
            for start in range(0, len(users), block):
                rows = slice(start, start + block)
                logits = (scaled[rows] @ columns.T).to(wide)
                total += _softmax_minus_onehot_(logits, target[rows], seen[row[rows]] <= step[rows, None], log_q)
                chances = logits.to(product)
                grad_scaled[rows] = (chances @ columns).to(wide)
                grad_items += (chances.T @ scaled[rows]).to(wide)
        count = max(len(users), 1)
        grad_scale = (grad_scaled * users).sum() / count
        ctx.save_for_backward(grad_scaled * (scale / count), grad_items / count, grad_scale)
        return (total / count).to(wide)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        found: tuple[Tensor, Tensor, Tensor] = ctx.saved_tensors
        return *(grad_outputs[0] * grad for grad in found), *(None,) * 7


def _softmax_minus_onehot_(logits: Tensor, target: Tensor, masked: Tensor, log_q: Tensor | None) -> Tensor:
    """Turn a block of logits into (softmax - onehot) in place; return the sum of its losses (float64)."""
    if log_q is not None:
        logits -= log_q
    at_target = logits.gather(1, target[:, None])
    logits.masked_fill_(masked, float("-inf")).scatter_(1, target[:, None], at_target)
    peak = logits.amax(dim=1, keepdim=True)
    logits.sub_(peak).exp_()
    mass = logits.sum(dim=1, keepdim=True)
    loss = (mass.log() + peak - at_target).double().sum()
    logits.div_(mass)
    logits.scatter_add_(1, target[:, None], torch.full_like(at_target, -1.0))
    return loss
