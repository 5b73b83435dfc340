"""The encoder of reviews and ads: attention over the real ones, and a learnt vector for none."""

from dataclasses import replace

import pytest
import torch

from recsys.batch import NoteBatch
from recsys.models.notes import NoteEncoder


def batch(**changes) -> NoteBatch:
    row = torch.tensor([[[0, 1, -1], [-1, -1, -1]], [[2, -1, -1], [1, 0, 2]]])
    draw = torch.Generator().manual_seed(0)
    values = {
        "row": row, "vector": torch.randn(3, 6, generator=draw),
        "number": torch.tensor([[0.5], [-1.0], [float("nan")]]), "age": torch.rand(2, 2, 3, generator=draw) * 40,
    }  # fmt: skip
    return NoteBatch(**{**values, **changes})


@pytest.fixture
def encoder() -> NoteEncoder:
    torch.manual_seed(0)
    return NoteEncoder(6, 1, 8, 3).eval()


def test_a_candidate_without_notes_has_the_learnt_vector(encoder):
    found = encoder(batch())
    assert found.shape == (2, 2, 8)
    assert torch.equal(found[0, 1], encoder.none)
    torch.testing.assert_close(encoder.missing(), encoder.none)


def test_what_stands_at_padding_does_not_matter(encoder):
    one = batch()
    odd = replace(one, age=torch.where(one.row < 0, 99.0, one.age))
    torch.testing.assert_close(encoder(odd), encoder(one))


def test_one_note_is_itself_whatever_its_weight(encoder):
    one = batch()
    states = encoder._notes(one) + encoder.age(encoder._bumps(one.age)) + encoder.place.weight
    torch.testing.assert_close(encoder(one)[1, 0], states[1, 0, 0])


def test_what_all_notes_say_together_is_added_with_its_own_weight(encoder):
    one = batch()
    states = encoder._notes(one) + encoder.age(encoder._bumps(one.age)) + encoder.place.weight
    alone = encoder(one)
    torch.nn.init.eye_(encoder.all.weight)
    for row, candidate in ((0, 0), (1, 0), (1, 1)):
        real = one.row[row, candidate] >= 0
        together = states[row, candidate][real].sum(0) / 3  # of three places, whether there are notes or not
        torch.testing.assert_close(encoder(one)[row, candidate], alone[row, candidate] + together)
    assert torch.equal(encoder(one)[0, 1], encoder.none)


def test_words_numbers_and_ages_are_read(encoder):
    one = batch()
    for changed in (
        replace(one, vector=-one.vector), replace(one, number=one.number + 1), replace(one, age=one.age + 9),
    ):  # fmt: skip
        assert (encoder(changed)[1, 1] - encoder(one)[1, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("empty", [False, True])
def test_every_weight_has_a_gradient_whether_there_are_notes_or_not(encoder, empty):
    one = batch()
    if empty:
        none = torch.full_like(one.row, -1)
        one = NoteBatch(row=none, vector=one.vector[:0], number=one.number[:0], age=torch.zeros(2, 2, 3))
    encoder(one).sum().backward()
    assert [name for name, weight in encoder.named_parameters() if weight.grad is None] == []
    assert all(torch.isfinite(weight.grad).all() for weight in encoder.parameters())
