"""What the retriever's training remembers of earlier batches."""

import torch

from recsys.training.distributed import Pool
from recsys.training.retriever import Memory


def pool_of(items: list[int], seed: int) -> Pool:
    torch.manual_seed(seed)
    vectors = torch.randn(len(items), 3, requires_grad=True)
    return Pool(item=torch.tensor(items), vectors=vectors, missed=None, draws=None, rows=2)


def test_positives_of_earlier_batches_stand_beside_the_pool_with_the_vectors_that_they_had_last():
    memory = Memory(8, 3)
    first, second, third = pool_of([1, 4, 6], 0), pool_of([2, 4], 1), pool_of([0, 5], 2)
    assert memory.extend(first, torch.tensor([4, 6])).item.tolist() == [1, 4, 6]  # nothing is remembered yet
    found = memory.extend(second, torch.tensor([4]))
    assert found.item.tolist() == [2, 4, 6]  # 1 was no positive
    assert torch.equal(found.vectors, torch.stack([second.vectors[0], second.vectors[1], first.vectors[2]]))
    found = memory.extend(third, torch.tensor([0]))
    assert found.item.tolist() == [0, 4, 5, 6]
    expected = [third.vectors[0], second.vectors[1], third.vectors[1], first.vectors[2]]
    assert torch.equal(found.vectors, torch.stack(expected))


def test_what_is_remembered_has_no_gradient_and_is_part_of_a_checkpoint():
    memory = Memory(8, 3)
    first, second = pool_of([1, 4], 0), pool_of([2], 1)
    memory.extend(first, torch.tensor([1, 4]))
    memory.extend(second, torch.tensor([2])).vectors.sum().backward()
    assert first.vectors.grad is None
    assert torch.equal(second.vectors.grad, torch.ones(1, 3))
    again = Memory(8, 3)
    again.load_state_dict(memory.state_dict())
    assert torch.equal(again.vectors[[1, 4]], first.vectors.detach())
    assert again.met.nonzero()[:, 0].tolist() == [1, 2, 4]
