"""What a batch is without something."""

import torch

from recsys.batch import UserBatch
from recsys.recommend.deletions import reworded


def batch(**changes: torch.Tensor) -> UserBatch:
    empty = torch.zeros(3, 0, dtype=torch.int64)
    return UserBatch(
        history=empty, history_mask=empty.bool(), query=torch.tensor([1, 0, -1]), query_vector=torch.eye(2), **changes
    )


def test_a_query_with_other_words_has_a_row_of_its_own_and_the_others_keep_theirs() -> None:
    found = reworded(batch(), [0], torch.full((1, 2), 5.0), ["red"])
    assert found.query is not None
    assert found.query_vector is not None
    assert found.query.tolist() == [2, 0, -1]
    assert found.query_vector.tolist() == [[1, 0], [0, 1], [5, 5]]
    assert found.query_text_known is None
    assert found.query_image_vector is None


def test_it_keeps_its_picture_and_is_that_picture_alone_where_no_word_is_left() -> None:
    pictures, shown = torch.tensor([[3.0], [4.0]]), torch.tensor([False, True])
    known = torch.tensor([True, True])
    own = batch(query_image_vector=pictures, query_image_known=shown, query_text_known=known)
    found = reworded(own, [0, 1], torch.zeros(2, 2), [" ", "red"])
    assert found.query is not None
    assert found.query_image_vector is not None
    assert found.query_image_known is not None
    assert found.query_text_known is not None
    assert found.query.tolist() == [2, 3, -1]
    assert found.query_image_vector[:, 0].tolist() == [3, 4, 4, 3]
    assert found.query_image_known.tolist() == [False, True, True, False]
    assert found.query_text_known.tolist() == [True, True, False, True]
