import random

import numpy as np
import pytest
import torch

from recsys.training.noise import seed_noise


def draw() -> tuple[list[float], list[float], float]:
    return torch.rand(4).tolist(), np.random.rand(4).tolist(), random.random()


def test_the_same_batch_of_the_same_process_draws_the_same() -> None:
    seed_noise(1, 2, 3, 0)
    first = draw()
    draw()
    seed_noise(1, 2, 3, 0)
    assert draw() == first


@pytest.mark.parametrize("other", [(2, 2, 3, 0), (1, 3, 3, 0), (1, 2, 4, 0), (1, 2, 3, 1)])
def test_another_seed_epoch_batch_or_process_draws_something_else(other: tuple[int, ...]) -> None:
    seed_noise(1, 2, 3, 0)
    first = draw()
    seed_noise(*other)
    assert all(one != two for one, two in zip(draw(), first, strict=True))
