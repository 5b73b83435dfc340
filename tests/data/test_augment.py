import numpy as np
import pytest

from recsys.data.augment import AugmentConfig, Change
from recsys.data.pasts import Past
from recsys.errors import InputError


def change(seed: int = 0, **shares: float) -> Change:
    return Change(config=AugmentConfig(**shares), seed=(seed, 0, 0))


def past_of(size: int) -> Past:
    numbers = np.arange(size)
    return Past(
        item=numbers, query=np.full(size, -1), event=numbers + 100, position=numbers, order=numbers.astype(float),
        next_context=np.arange(size + 1)[:, None],
    )  # fmt: skip


def test_nothing_changes_where_nothing_is_asked_for():
    past, asked = change().reordered(past_of(9))
    assert change().kept(9).all()
    assert asked.all()
    assert past.item.tolist() == list(range(9))


def test_a_window_changes_alike_for_the_same_seed_and_otherwise_for_another():
    draws = [change(seed, mask=0.5, crop=0.5).kept(40).tolist() for seed in (0, 0, 1)]
    runs = [change(seed, reorder=0.9).reordered(past_of(40))[0].item.tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert runs[0] == runs[1] != runs[2]


def test_shares_lie_between_nothing_and_the_largest():
    cut = [40 - change(seed, crop=0.5).kept(40).sum() for seed in range(200)]
    left = [40 - change(seed, mask=0.5).kept(40).sum() for seed in range(200)]
    assert max(cut) < 20
    assert 8 < np.mean(cut) < 12
    assert 8 < np.mean(left) < 12


def test_a_run_changes_places_and_keeps_its_times_and_kinds():
    for seed in range(50):
        past, asked = change(seed, reorder=0.9).reordered(past_of(20))
        assert (past.event - 100 == past.item).all()
        assert past.position.tolist() == past.order.tolist() == list(range(20))
        for step in np.flatnonzero(asked):
            assert sorted(past.item[:step]) == list(range(step))


@pytest.mark.parametrize("name", ["mask", "crop", "reorder"])
@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(name, share):
    with pytest.raises(InputError, match=rf"augment\.{name} is {share}"):
        AugmentConfig(**{name: share})
