from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recsys.errors import InputError
from recsys.models.history import HistoryEncoder, HistoryEncoderConfig

B, H, D = 3, 6, 16


Make = Callable[..., HistoryEncoder]


@pytest.fixture(params=["transformer", "gru"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes an encoder of each kind: every rule holds for both."""

    def made(**values: object) -> HistoryEncoder:
        torch.manual_seed(0)
        config = HistoryEncoderConfig(**{"kind": request.param, "layers": 2, "heads": 2, **values})  # pyright: ignore[reportArgumentType]
        return HistoryEncoder(config, D).eval()

    return made


def entries() -> Tensor:
    return torch.randn(B, H, D, generator=torch.Generator().manual_seed(1))


def order(first: int = 0) -> Tensor:
    return (torch.arange(H) + first).expand(B, H)


@pytest.mark.parametrize("changed", range(H))
@torch.no_grad()
def test_a_state_knows_only_the_entries_before_it(make: Make, changed: int) -> None:
    encoder, old = make(), entries()
    new = old.clone()
    new[:, changed] += 1
    before, after = encoder(old, order()), encoder(new, order())
    assert torch.equal(before[:, : changed + 1], after[:, : changed + 1])
    assert (before[:, changed + 1 :] != after[:, changed + 1 :]).any(-1).all()


@torch.no_grad()
def test_padding_at_the_end_changes_no_earlier_state(make: Make) -> None:
    encoder, content = make(), entries()
    padded = torch.cat([content, torch.full((B, 3, D), 1e3)], dim=1)
    position = torch.cat([order(), torch.full((B, 3), H)], dim=1)
    torch.testing.assert_close(encoder(padded, position)[:, : H + 1], encoder(content, order()), rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_width_of_a_gap_matters(make: Make) -> None:
    encoder, content = make(), entries()
    gap = order() + 5 * (torch.arange(H) >= 3)
    near, far = encoder(content, order()), encoder(content, gap)
    assert torch.equal(near[:, :4], far[:, :4])
    assert (near[:, 4:] - far[:, 4:]).abs().amax(-1).min() > 1e-4


@torch.no_grad()
def test_where_a_window_begins_does_not_matter(make: Make) -> None:
    encoder, content = make(), entries()
    assert torch.equal(encoder(content, order()), encoder(content, order(first=1_000_000)))


@torch.no_grad()
def test_swapping_two_entries_changes_what_follows(make: Make) -> None:
    encoder, content = make(), entries()
    swapped = content[:, [1, 0, *range(2, H)]]
    assert (encoder(content, order())[:, -1] - encoder(swapped, order())[:, -1]).abs().max() > 1e-4


@torch.no_grad()
def test_an_empty_history_has_one_state_for_everyone(make: Make) -> None:
    states = make()(torch.zeros(B, 0, D), torch.zeros(B, 0, dtype=torch.int64))
    assert states.shape == (B, 1, D)
    assert torch.equal(states[0], states[1])
    assert torch.allclose(states, make()(entries(), order())[:, :1], atol=1e-6)


@torch.no_grad()
def test_a_condition_changes_every_state(make: Make) -> None:
    encoder = make()
    plain = encoder(entries(), order())
    told = encoder(entries(), order(), torch.linspace(-1, 1, D).expand(B, D))
    assert torch.equal(encoder(entries(), order(), torch.zeros(B, D)), plain)
    assert (plain - told).abs().amax(-1).min() > 1e-4


def test_every_weight_learns_even_from_an_empty_history(make: Make) -> None:
    encoder = make(untied=True)
    encoder(torch.zeros(B, 0, D), torch.zeros(B, 0, dtype=torch.int64)).sum().backward()
    assert all(weight.grad is not None for weight in encoder.parameters())


def test_autocast_stays_near_float32(make: Make) -> None:
    encoder = make()
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(entries(), order())
    assert rough.dtype == torch.float32
    assert (rough - encoder(entries(), order())).abs().max() < 0.1


def test_a_width_that_rotations_cannot_use_is_refused() -> None:
    with pytest.raises(InputError, match="width is 18"):
        HistoryEncoder(HistoryEncoderConfig(heads=2), 18)


@pytest.mark.parametrize("wrong", [{"layers": -1}, {"heads": 0}, {"dropout": 1.0}, {"feedforward": 0}])
def test_an_impossible_size_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        HistoryEncoderConfig(**wrong)  # pyright: ignore[reportArgumentType]


def test_a_gru_has_a_layer_at_least_and_takes_any_width() -> None:
    with pytest.raises(InputError, match="at least 1"):
        HistoryEncoderConfig(kind="gru", layers=0)
    encoder = HistoryEncoder(HistoryEncoderConfig(kind="gru", layers=1, heads=4), 18)
    assert encoder(torch.zeros(2, 3, 18), torch.arange(3).expand(2, 3)).shape == (2, 4, 18)
