from typing import cast

import torch
from torch import nn

from recsys.models.fields import Categories, Cycle, Numbers, absent, contribution

NAN = float("nan")


def table(categories: Categories, column: int) -> torch.Tensor:
    embedding = categories.tables[column]
    assert isinstance(embedding, nn.Embedding)
    return embedding.weight


def test_a_cell_is_the_mean_of_its_values_and_columns_add_up() -> None:
    categories = Categories([3, 2], 4)
    found = categories(torch.tensor([[[1, 3, 0], [2, 0, 0]]]))
    expected = (table(categories, 0)[1] + table(categories, 0)[3]) / 2 + table(categories, 1)[2]
    torch.testing.assert_close(found[0], expected)


def test_a_missing_category_is_learnt_and_not_zero() -> None:
    categories = Categories([3], 4)
    found = categories(torch.zeros(1, 1, 2, dtype=torch.int64))
    torch.testing.assert_close(found[0], table(categories, 0)[0])
    assert found.abs().sum() > 0
    found.sum().backward()
    gradient = table(categories, 0).grad
    assert gradient is not None
    assert gradient[0].abs().sum() > 0


def test_padding_beside_a_value_counts_for_nothing() -> None:
    categories = Categories([3], 4)
    wide, narrow = torch.tensor([[[2, 0, 0]]]), torch.tensor([[[2]]])
    torch.testing.assert_close(categories(wide), categories(narrow))
    torch.testing.assert_close(categories(torch.tensor([[[0, 2, 0]]])), categories(narrow))


def test_categories_take_any_leading_shape() -> None:
    categories = Categories([3, 2], 4)
    codes = torch.randint(0, 3, (5, 7, 2, 1))
    torch.testing.assert_close(categories(codes)[2, 3], categories(codes[2, 3]))


def test_hours_go_round_so_that_the_last_is_as_near_to_the_first_as_to_the_one_before() -> None:
    torch.manual_seed(0)
    hours = Categories([3, 24], 8, [[], [hour / 24 for hour in range(24)]])
    found = hours.tables[1](torch.arange(1, 25))
    step = (found - found.roll(1, 0)).norm(dim=1)
    across = (found - found.roll(12, 0)).norm(dim=1)
    assert step[0] < 1.5 * step[1:].max()
    assert step.mean() < across.mean()
    moments = torch.tensor([[[2], [1]], [[2], [0]]])
    expected = table(hours, 0)[2] + torch.stack([found[0], cast(Cycle, hours.tables[1]).missing])
    torch.testing.assert_close(hours(moments), expected)


def test_a_missing_number_is_learnt_and_not_zero() -> None:
    numbers = Numbers(2, 4)
    missing, zero = numbers(torch.tensor([[NAN, 1.0]])), numbers(torch.tensor([[0.0, 1.0]]))
    assert missing.isfinite().all()
    torch.testing.assert_close(missing - zero, numbers.missing.weight[:, :1].T)


def test_an_outlier_is_cut_off() -> None:
    numbers = Numbers(1, 4)
    huge = numbers(torch.tensor([[1e30], [float("inf")], [10.0]]))
    assert torch.equal(huge[0], huge[2])
    assert torch.equal(huge[1], huge[2])


def test_an_absent_source_is_zero_and_still_gives_its_weights_a_gradient() -> None:
    part, alone, fixed = nn.Linear(2, 2), nn.Parameter(torch.ones(2)), nn.Linear(2, 2).requires_grad_(False)
    zero = absent(part, None, alone, fixed)
    assert zero.item() == 0
    zero.backward()
    for weight in (*part.parameters(), alone):
        assert weight.grad is not None
        assert weight.grad.eq(0).all()
    assert fixed.weight.grad is None


def test_a_source_contributes_only_where_model_and_batch_have_it() -> None:
    part, values = nn.Linear(2, 2), torch.ones(3, 2)
    assert torch.equal(contribution(part, values), part(values))
    assert contribution(part, None).item() == 0
    assert contribution(None, values).item() == 0
