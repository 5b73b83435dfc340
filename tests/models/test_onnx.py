"""Parts of models as ONNX files: what onnxruntime gives is what torch gives, for inputs of any size."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recsys.batch import ItemBatch, NoteBatch, PrunerBatch, TextBatch, UserBatch
from recsys.config import ImageConfig, TextConfig
from recsys.errors import InputError
from recsys.models.dynamic import DynamicConfig
from recsys.models.graphs import Graph, Input, ItemGraph, PrunerGraph, TextGraph
from recsys.models.image import ImageEncoder
from recsys.models.onnx import Session, difference, quantize, write_graph
from recsys.models.pruner import Pruner, PrunerConfig
from recsys.models.standins import OnnxItems, OnnxJudge, serve_text
from recsys.models.text import TextEncoder
from recsys.models.towers import Retriever, RetrieverConfig, Sizes

WORDS = TextConfig(model="config:", mode="full", width=128, layers=1, heads=2, max_tokens=24)
SIZES = Sizes(
    items=20, item_category=[4, 6], item_columns=["kind", "brand"], item_number=2, user_category=[3, 2], user_number=1,
    context=[5], turns=[[0, 0.2, 0.4, 0.6, 0.8]], event=2, reviews=1, ads=0, neighbours=4, item_vectors=[3, 5],
)  # fmt: skip


def words(width: int = 128) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder.build(replace(WORDS, width=width), vocab_size=50).eval()


def pictures() -> ImageEncoder:
    return ImageEncoder.build(ImageConfig(model="config:", mode="full", pixels=16, layers=1, width=4))


def texts(lengths: list[int]) -> TextBatch:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    draw = torch.Generator().manual_seed(len(lengths))
    return TextBatch(ids=torch.randint(5, 50, mask.shape, generator=draw) * mask, mask=mask)


def written(graph: Graph, folder: Path) -> Session:
    write_graph(graph, folder / "graph.onnx")
    return Session(folder / "graph.onnx")


@pytest.fixture(scope="module")
def text_session(tmp_path_factory) -> Session:
    return written(TextGraph(words(), pairs=True), tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("lengths", [[3], [24] * 2, [24, 3, 9, 4], list(range(3, 20)) * 3])
@torch.no_grad()
def test_a_served_encoder_gives_the_vectors_that_a_packing_one_gives(text_session, lengths):
    encoder, served, batch = words(), words(), texts(lengths)
    serve_text(served, text_session)
    torch.testing.assert_close(served(batch), encoder(batch), rtol=0, atol=1e-5)
    torch.testing.assert_close(served.token_states(batch), encoder.token_states(batch), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_second_text_of_a_pair_is_told_apart(text_session):
    encoder, served, batch = words(), words(), texts([9, 12, 3])
    serve_text(served, text_session)
    pairs = replace(batch, part=(torch.arange(12) > 4).long() * batch.mask)
    torch.testing.assert_close(served(pairs), encoder(pairs), rtol=0, atol=1e-5)
    assert not torch.allclose(served(pairs), served(batch), atol=1e-3)


@torch.no_grad()
def test_what_a_tokenizer_gives_becomes_vectors_without_this_package(text_session):
    batch = texts([7, 4])
    given = {"input_ids": batch.ids, "attention_mask": batch.mask.long(), "token_type_ids": torch.zeros_like(batch.ids)}
    vectors = text_session.session.run(["vectors"], {name: one.numpy() for name, one in given.items()})[0]
    np.testing.assert_allclose(vectors, words()(batch), atol=1e-5)


def test_vectors_that_are_cached_by_an_encoders_weights_are_told_apart(text_session, tmp_path):
    encoder, served = words(), words()
    serve_text(served, text_session)
    again = words()
    serve_text(again, text_session)
    assert served.content_hash() == again.content_hash() != encoder.content_hash()


def test_int8_is_smaller_and_near(text_session, tmp_path):
    quantize(text_session.path, tmp_path / "text.int8.onnx")
    assert 2 * (tmp_path / "text.int8.onnx").stat().st_size < text_session.path.stat().st_size
    assert 0 < difference(TextGraph(words(), pairs=True), Session(tmp_path / "text.int8.onnx")) < 0.3


class Twice(Graph):
    """Reads two inputs by one wide layer, and scores both by a narrow one."""

    def __init__(self) -> None:
        super().__init__({name: Input(shape=(name, 64)) for name in ("items", "queries")}, ("first", "second"))
        torch.manual_seed(0)
        self.wide, self.narrow = nn.Linear(64, 32), nn.Linear(32, 1)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.narrow(self.wide(one)) for one in tensors)


def test_int8_takes_weights_that_are_used_twice_and_leaves_narrow_ones_alone(tmp_path):
    session = written(Twice(), tmp_path)
    quantize(session.path, tmp_path / "int8.onnx")
    assert 0 < difference(Twice(), Session(tmp_path / "int8.onnx")) < 0.05
    kinds = operators(tmp_path / "int8.onnx")
    assert kinds.count("MatMulInteger") == 2
    assert sum(kinds.count(kind) for kind in ("Gemm", "MatMul")) == 2


def operators(path: Path) -> list[str]:
    import onnx

    return [node.op_type for node in onnx.load(path).graph.node]


def item_batch(rows: int, values: int = 2) -> ItemBatch:
    draw = torch.Generator().manual_seed(rows)
    number = torch.randn(rows, 2, generator=draw)
    return ItemBatch(
        index=torch.randint(-1, 20, (rows,), generator=draw), text_vector=torch.randn(rows, 128, generator=draw),
        image_vector=torch.randn(rows, 16, generator=draw),
        image_known=torch.rand(rows, generator=draw) < 0.5,
        ready_vector=torch.randn(rows, 8, generator=draw), ready_known=torch.rand(rows, 2, generator=draw) < 0.5,
        category=torch.randint(0, 5, (rows, 2, values), generator=draw),
        number=number.masked_fill(number > 1, torch.nan),
    )  # fmt: skip


@torch.no_grad()
def test_an_item_tower_of_every_source_gives_the_same_vectors(tmp_path):
    config = RetrieverConfig(
        text=WORDS, image=ImageConfig(model="config:", mode="full"), width=16, dynamic=DynamicConfig(width=8)
    )
    model = Retriever(config, SIZES, words(), pictures()).eval()
    for missing in model.items.ready.missing:
        nn.init.normal_(missing)
    session = written(ItemGraph(model), tmp_path)
    assert difference(ItemGraph(model), session) < 1e-5
    for batch in (item_batch(1), item_batch(30, values=4), item_batch(2, values=1)):
        torch.testing.assert_close(OnnxItems(session)(batch), model.encode_items(batch), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match=r"needs text_vector, which this data set does not have"):
        OnnxItems(session)(replace(item_batch(1), text_vector=None))


def lists(rows: int, columns: int, length: int, queries: int, notes: int) -> PrunerBatch:
    draw = torch.Generator().manual_seed(rows)

    def integers(least: int, high: int, *shape: int) -> Tensor:
        return torch.randint(least, high, shape, generator=draw)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    mask = torch.arange(length) < integers(0, length + 1, rows, 1)
    columns_real = torch.arange(columns) < integers(1, columns + 1, rows, 1)
    said = {"row": integers(-1, notes, rows, columns, 3), "age": 50 * torch.rand(rows, columns, 3, generator=draw)}
    return PrunerBatch(
        users=UserBatch(
            history=integers(0, 11, rows, length), history_mask=mask, event=integers(0, 4, rows, length),
            profile=integers(0, 3, rows, 2, 2), profile_number=normal(rows, 1),
            context=integers(0, 3, rows, length + 1, 1),
            query=integers(-1, queries, rows) if queries else None,
            query_vector=normal(queries, 128) if queries else None,
        ),
        items=item_batch(11), item_vector=normal(11, 8), user_vector=normal(rows, 8),
        candidate=integers(0, 11, rows, columns).masked_fill(~columns_real, -1),
        retriever_score=normal(rows, columns), label=torch.zeros(rows, columns), neighbours=normal(rows, columns, 4),
        reviews=NoteBatch(**said, number=normal(notes, 1), vector=normal(notes, 128)),
        ads=NoteBatch(**said, number=normal(notes, 0), vector=normal(notes, 128)),
    )  # fmt: skip


def without_a_note(batch: PrunerBatch) -> PrunerBatch:
    assert batch.reviews is not None
    row = torch.full_like(batch.reviews.row, -1)
    return replace(batch, reviews=NoteBatch(row=row, age=0.0 * row, number=row.new_zeros(0, 1, dtype=torch.float32)))


@pytest.mark.slow
@torch.no_grad()
def test_a_pruner_of_every_source_gives_the_same_logits_whatever_a_batch_lacks(tmp_path):
    torch.manual_seed(0)
    config = PrunerConfig(
        width=16, layers=1, heads=2, history=4, text=replace(WORDS, model="somewhere", mode="frozen"),
        image=ImageConfig(model="somewhere"), fusion="attention", notes=3, targets={"click": ["click"]},
        habits=["brand"], matches=True, searches=True, crosses=["brand"], wide=True,
    )  # fmt: skip
    model = Pruner(config, SIZES, words(), vector_width=8, lexical=True, image=pictures()).eval()
    for weight in model.parameters():  # what starts as zero has its say too
        nn.init.normal_(weight, std=0.2)
    session = written(PrunerGraph(model), tmp_path)
    assert difference(PrunerGraph(model), session) < 1e-4
    batch = lists(rows=6, columns=9, length=8, queries=4, notes=5)
    cases = [
        batch, lists(rows=1, columns=1, length=0, queries=0, notes=1), lists(3, 12, 16, 1, 2),
        replace(batch, lexical_score=torch.randn(6, 9)), replace(batch, reviews=None, ads=None), without_a_note(batch),
    ]  # fmt: skip
    for case in cases:
        torch.testing.assert_close(OnnxJudge(session)(case), model.judge(case), rtol=0, atol=1e-4)
    quantize(session.path, tmp_path / "int8.onnx")
    assert OnnxJudge(Session(tmp_path / "int8.onnx"))(batch).isfinite().any()


class _Fixed(Session):
    """Gives the same whatever it is asked."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.inputs = values, {}

    def run(self, tensors, outputs=None):
        return [self.values]


class _Constant(Graph):
    def __init__(self, values: Tensor) -> None:
        super().__init__({}, ("values",))
        self.values = values

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        return (self.values,)


def test_a_difference_is_the_largest_one_and_infinite_where_only_one_side_is():
    nan, lost = float("nan"), float("-inf")
    graph = _Constant(torch.tensor([1.0, lost, nan]))
    assert difference(graph, _Fixed(np.array([1.25, lost, nan], dtype=np.float32))) == 0.25
    assert difference(graph, _Fixed(np.array([1.0, 0.0, nan], dtype=np.float32))) == np.inf
    assert difference(graph, _Fixed(np.array([nan, lost, nan], dtype=np.float32))) == np.inf


def test_examples_are_of_several_sizes_and_the_same_at_every_call():
    graph = TextGraph(words(16))
    one, two = graph.examples(), graph.examples()
    assert len({tuple(example["input_ids"].shape) for example in one}) == len(one) > 2
    assert max(example["input_ids"].shape[1] for example in one) == WORDS.max_tokens
    assert all(torch.equal(a[name], b[name]) for a, b in zip(one, two, strict=True) for name in a)


def test_a_missing_library_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"recsys\[export\]"):
        Session(tmp_path / "graph.onnx")
    with pytest.raises(InputError, match=r"recsys\[export\]"):
        write_graph(TextGraph(words(16)), tmp_path / "graph.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_graph_is_one_sentence(tmp_path):
    (tmp_path / "graph.onnx").write_text("no graph")
    with pytest.raises(InputError, match=r"graph\.onnx is no readable ONNX file .*export it again"):
        Session(tmp_path / "graph.onnx")


def test_a_pruners_file_refuses_queries_without_words():
    batch = lists(rows=2, columns=3, length=0, queries=2, notes=1)
    users = replace(batch.users, query_text_known=torch.tensor([True, False]))
    with pytest.raises(InputError, match="some have none; set runtime: torch"):
        OnnxJudge(None)(replace(batch, users=users))
