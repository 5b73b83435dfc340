"""S_i = M(item, user, moment): its formula, that it starts as nothing, and what two vectors alone cannot hold."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from recsys.errors import InputError
from recsys.models.dynamic import DynamicConfig, DynamicItems
from recsys.models.towers import Retriever
from tests.models.test_towers import ITEMS, WIDTH, full, items, users

CONFIG = DynamicConfig(width=5)


def dynamic(*, trained: bool) -> Retriever:
    model = full(dynamic=CONFIG)
    if trained:
        assert model.dynamic is not None
        torch.nn.init.normal_(model.dynamic.out.weight)
    return model


@torch.no_grad()
def test_untrained_it_is_the_dot_product() -> None:
    model, plain = dynamic(trained=False), full()
    plain.load_state_dict(model.state_dict(), strict=False)
    states, vectors = model.encode_items(items()), plain.encode_items(items())
    assert states.shape == (ITEMS, WIDTH + CONFIG.width)
    torch.testing.assert_close(model.vectors(states), vectors)
    asked = model.encode_users(users(), states)[:, -1]
    torch.testing.assert_close(asked, plain.encode_users(users(), vectors)[:, -1])
    found = model.score(asked, states.expand(len(asked), -1, -1))
    torch.testing.assert_close(found, asked @ vectors.T)
    torch.testing.assert_close(plain.score(asked, vectors.expand(len(asked), -1, -1)), asked @ vectors.T)


@torch.no_grad()
def test_a_score_is_the_user_times_the_items_own_representation_for_him() -> None:
    model = dynamic(trained=True)
    states, part = model.encode_items(items()), model.dynamic
    assert part is not None
    asked = model.encode_users(users(), states)[:, -1]
    for user, found in zip(asked, model.score(asked, states.expand(len(asked), -1, -1)), strict=True):
        scale, shift = part.film(user).chunk(2)
        for item, score in zip(states, found, strict=True):
            own = item[:WIDTH] + part.out.weight.T @ F.gelu((1 + scale) * item[WIDTH:] + shift)
            torch.testing.assert_close(user @ own, score, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_moment_changes_what_an_item_is() -> None:
    """Not only the user's vector: the item's own part, W a."""
    model = dynamic(trained=True)
    states, part = model.encode_items(items()), model.dynamic
    assert part is not None
    batch, found = users(rows=1, length=3), []
    for moment in (1, 3):
        user = model.encode_users(replace(batch, context=batch.context * moment), states)[0, -1]
        scale, shift = part.film(user).chunk(2)
        found.append(F.gelu((1 + scale) * states[:, WIDTH:] + shift) @ part.out.weight)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_it_learns_what_no_two_vectors_hold() -> None:
    """At one moment, either of two labels but not both; at the other the first label alone."""
    labels = torch.tensor([[a, b] for a in (0, 1) for b in (0, 1)])
    sources = F.one_hot(labels, 4).float()  # [4, 2, 4]
    moments = torch.eye(2, 4)
    wanted = torch.stack([labels[:, 0] ^ labels[:, 1], labels[:, 0]]).float()

    def mistakes(part: DynamicItems | None) -> int:
        vectors = torch.nn.Linear(8, 4, bias=False)
        weights = [*vectors.parameters(), *(part.parameters() if part is not None else [])]
        optimiser = torch.optim.Adam(weights, lr=0.02)
        for _ in range(500):
            plain = vectors(sources.flatten(1))
            scores = moments @ (plain - plain.mean(0)).T * 4
            if part is not None:
                scores = scores + part(moments, part.states(sources).expand(2, -1, -1))
            loss = F.binary_cross_entropy_with_logits(scores, wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return int(((scores > 0) != wanted.bool()).sum())

    torch.manual_seed(0)
    assert mistakes(None) > 0
    assert mistakes(DynamicItems(DynamicConfig(width=16), sources=2, width=4)) == 0


@pytest.mark.parametrize("name", ["width", "candidates", "negatives"])
def test_sizes_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"model.dynamic.{name} is 0; expected at least 1"):
        DynamicConfig(**{name: 0})
