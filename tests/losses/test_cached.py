"""GradCache against plain backward, and how chunks are cut."""

import pytest
import torch

from recsys.losses.cached import cut_chunks, encode_in_chunks


@pytest.mark.parametrize(("rows", "tokens"), [(1, None), (3, None), (None, 1), (None, 12), (4, 20), (None, 1000)])
def test_chunks_are_a_permutation_within_the_limits_longest_first(rows: int | None, tokens: int | None):
    lengths = torch.tensor([3, 9, 1, 4, 4, 7, 2, 5])
    chunks = cut_chunks(lengths, rows=rows, tokens=tokens)
    assert torch.cat(chunks).sort().values.tolist() == list(range(8))
    assert (lengths[torch.cat(chunks)].diff() <= 0).all()
    for chunk in chunks:
        assert rows is None or len(chunk) <= rows
        assert tokens is None or len(chunk) == 1 or len(chunk) * int(lengths[chunk].max()) <= tokens


def test_no_texts_make_no_chunk():
    assert cut_chunks(torch.zeros(0, dtype=torch.int64), rows=3, tokens=None) == []


def test_the_gradient_of_chunks_with_dropout_is_that_of_the_same_draws_kept():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 3)).double()
    chunks = list(torch.randn(7, 5, dtype=torch.float64).split(3))
    torch.manual_seed(1)
    cached = encode_in_chunks(model, chunks, list(map(len, chunks)), torch.device("cpu"))
    assert all(weight.grad is None for weight in model.parameters())
    (cached.vectors @ cached.vectors.T).logsumexp(1).sum().backward()
    after = torch.get_rng_state()
    cached.backward()
    assert torch.equal(torch.get_rng_state(), after)  # whoever draws next is not disturbed
    found = [weight.grad.clone() for weight in model.parameters()]
    torch.manual_seed(1)
    kept = torch.cat([model(chunk) for chunk in chunks])
    torch.testing.assert_close(cached.vectors, kept)
    wanted = torch.autograd.grad((kept @ kept.T).logsumexp(1).sum(), list(model.parameters()))
    torch.testing.assert_close(found, list(wanted), rtol=0, atol=1e-12)


def test_vectors_that_no_loss_has_used_leave_the_weights_without_gradient():
    model = torch.nn.Linear(2, 2)
    encode_in_chunks(model, [torch.ones(1, 2)], [1], torch.device("cpu")).backward()
    assert model.weight.grad is None
