"""The pruner: the retriever's order at the start, candidates judged one by one, decisions and probabilities."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recsys.batch import ItemBatch, NoteBatch, PrunerBatch, TextBatch, UserBatch
from recsys.config import ImageConfig, TextConfig
from recsys.errors import InputError
from recsys.models.checkpoint import load_pruner, save_pruner
from recsys.models.decision import Calibration, Meaning
from recsys.models.habits import event_shares, habits
from recsys.models.image import ImageEncoder
from recsys.models.joint import CANDIDATE, _Block
from recsys.models.pruner import Pruner, PrunerConfig, retriever_evidence
from recsys.models.text import TextEncoder
from recsys.models.towers import Sizes

SIZES = Sizes(
    items=20, item_category=[4], item_columns=["kind"], item_number=1, user_category=[3, 2], context=[5], event=2
)  # fmt: skip
SMALL = PrunerConfig(width=16, layers=2, heads=2, history=4)
FROZEN = TextConfig(model="somewhere", mode="frozen")
WORDS = TextConfig(model="config:", mode="full", width=16, layers=1, heads=2, max_tokens=16)
ITEMS, ROWS, LISTED, ENTRIES, QUERIES = 11, 4, 7, 6, 3


def make_batch(seed: int = 0) -> PrunerBatch:
    draw = torch.Generator().manual_seed(seed)

    def integers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape, generator=draw)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    listed = torch.arange(LISTED) < torch.tensor([7, 5, 1, 7])[:, None]
    mask = torch.arange(ENTRIES) < torch.tensor([6, 3, 0, 4])[:, None]
    lengths = 3 + integers(5, ROWS * LISTED, 1)
    words = torch.arange(8) < lengths
    return PrunerBatch(
        users=UserBatch(
            history=integers(ITEMS, ROWS, ENTRIES), history_mask=mask, event=integers(3, ROWS, ENTRIES),
            profile=integers(3, ROWS, 2, 1), context=integers(6, ROWS, ENTRIES + 1, 1),
            query=torch.tensor([-1, 0, 2, -1]), query_vector=normal(QUERIES, 6),
        ),
        items=ItemBatch(
            index=torch.arange(ITEMS), text_vector=normal(ITEMS, 6), category=integers(5, ITEMS, 1, 2),
            number=normal(ITEMS, 1),
        ),
        item_vector=normal(ITEMS, 8), user_vector=normal(ROWS, 8),
        candidate=torch.stack([torch.randperm(ITEMS, generator=draw) for _ in range(ROWS)])[:, :LISTED]
        .masked_fill(~listed, -1),
        retriever_score=normal(ROWS, LISTED).sort(descending=True).values, label=torch.zeros(ROWS, LISTED),
        pairs=TextBatch(
            ids=(5 + integers(40, ROWS * LISTED, 8)) * words, mask=words, part=(torch.arange(8) > 2).long() * words
        ),
    )  # fmt: skip


def joint(config: PrunerConfig = SMALL, *, trained: bool = True, text_width: int = 6) -> Pruner:
    """A pruner over cached vectors; `trained` gives it a head that says something."""
    torch.manual_seed(0)
    encoder = torch.nn.Module()
    encoder.width = text_width
    model = Pruner(replace(config, text=FROZEN), SIZES, encoder, vector_width=8).eval()
    return with_opinion(model) if trained else model


def crossed(*, trained: bool = True) -> Pruner:
    torch.manual_seed(0)
    model = Pruner(replace(SMALL, text=WORDS), SIZES, TextEncoder.build(WORDS, vocab_size=50), vector_width=8).eval()
    return with_opinion(model) if trained else model


def matching(*, trained: bool = True) -> Pruner:
    config = replace(SMALL, text=FROZEN, habits=["kind"], matches=True, searches=True, crosses=["kind"], wide=True)
    return joint(config, trained=trained)


def with_opinion(model: Pruner) -> Pruner:
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.normal_(model.weights)
    if model.habits is not None:
        torch.nn.init.normal_(model.habits)
    for part in (model.wide, None if model.crosses is None else model.crosses.table):
        if part is not None:
            torch.nn.init.normal_(part)
    return model


def real(batch: PrunerBatch) -> torch.Tensor:
    return batch.candidate >= 0


@pytest.mark.parametrize("make", [joint, matching, crossed])
def test_an_untrained_pruner_keeps_exactly_the_retrievers_order(make):
    batch = make_batch()
    logits = make(trained=False)(batch)
    assert logits.dtype == torch.float32
    order = logits.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(order, torch.arange(LISTED).expand_as(order))
    assert torch.equal(logits == float("-inf"), ~real(batch))


@pytest.mark.parametrize("make", [joint, matching, crossed])
def test_a_candidates_score_does_not_depend_on_the_other_candidates(make):
    batch, model = make_batch(), make()
    logits = model(batch)
    for column in range(LISTED):
        others = (batch.candidate + 3) % ITEMS
        others[:, column] = batch.candidate[:, column]
        pairs = batch.pairs
        ids = ((pairs.ids + 7) % 50).view(ROWS, LISTED, -1)
        ids[:, column] = pairs.ids.view(ROWS, LISTED, -1)[:, column]
        pairs = replace(pairs, ids=ids.view_as(pairs.ids))
        changed = replace(batch, candidate=others.masked_fill(~real(batch), -1), pairs=pairs)
        torch.testing.assert_close(model(changed)[:, column], logits[:, column])


@pytest.mark.parametrize("make", [joint, matching, crossed])
def test_a_request_alone_gets_the_scores_it_has_among_others(make):
    batch, model = make_batch(), make()
    logits = model(batch)
    for row in range(ROWS):
        keep = slice(row, row + 1)
        names = ("history", "history_mask", "event", "profile", "context", "query")
        users = replace(batch.users, **{name: getattr(batch.users, name)[keep] for name in names})
        words = slice(row * LISTED, (row + 1) * LISTED)
        pairs = replace(
            batch.pairs, ids=batch.pairs.ids[words], mask=batch.pairs.mask[words], part=batch.pairs.part[words]
        )
        one = replace(
            batch, users=users, user_vector=batch.user_vector[keep], candidate=batch.candidate[keep],
            pairs=pairs, retriever_score=batch.retriever_score[keep], label=batch.label[keep],
        )  # fmt: skip
        torch.testing.assert_close(model(one), logits[keep])


def test_what_stands_at_padding_means_nothing():
    batch, model = make_batch(), joint()
    history = torch.where(batch.users.history_mask, batch.users.history, 9)
    score = batch.retriever_score.masked_fill(~real(batch), 1e9)
    changed = replace(batch, retriever_score=score, users=replace(batch.users, history=history))
    torch.testing.assert_close(model(changed), model(batch))


def test_only_the_latest_entries_are_read_and_their_order_matters():
    batch, model = make_batch(), joint()
    logits = model(batch)
    older, latest, swapped = (batch.users.history.clone() for _ in range(3))
    older[0, :2] = (older[0, :2] + 1) % ITEMS
    latest[0, 5] = (latest[0, 5] + 1) % ITEMS
    swapped[0, [4, 5]] = swapped[0, [5, 4]]
    torch.testing.assert_close(model(replace(batch, users=replace(batch.users, history=older))), logits)
    for changed in (latest, swapped):
        assert not torch.allclose(model(replace(batch, users=replace(batch.users, history=changed)))[0], logits[0])


@pytest.mark.parametrize("source", ["profile", "context", "event", "query"])
def test_every_source_of_the_users_side_moves_the_score(source):
    batch, model = make_batch(), joint()
    value = getattr(batch.users, source)
    changed = value.flip(0) if source == "query" else (value + 1) % 3
    logits = model(replace(batch, users=replace(batch.users, **{source: changed})))
    assert not torch.allclose(logits[1], model(batch)[1])


@pytest.mark.parametrize("place", [0, 2, 4])
def test_every_entry_of_the_history_counts_for_what_is_matched(place):
    batch, model = make_batch(), matching()
    history = batch.users.history.clone()
    history[0, place] = (history[0, place] + 1) % ITEMS
    changed = replace(batch, users=replace(batch.users, history=history))
    assert not torch.allclose(model(changed)[0], model(batch)[0])
    torch.testing.assert_close(model(changed)[1:], model(batch)[1:])


def test_attention_over_the_users_tokens_and_itself_is_that_over_all_with_a_mask():
    torch.manual_seed(0)
    block, x = _Block(16, 2, 0.0), torch.randn(3, 9, 16)
    users = torch.tensor([[True, True, False, True], [True, False, False, False], [True, True, True, True]])
    seen = torch.cat([torch.zeros(4, 9, dtype=torch.bool), torch.eye(9, dtype=torch.bool)[4:]])
    seen = seen | F.pad(users, (0, 5))[:, None]
    query, key, value = block.qkv(x).view(3, 9, 3, 2, 8).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None])
    whole = mixed.transpose(1, 2).reshape(3, 9, 16)
    for first in (0, 4):  # all tokens, and the candidates alone
        torch.testing.assert_close(block._attend(x, users, first), whole[:, first:])


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_joint_transformer_of_any_depth_judges_each_candidate(layers):
    batch = make_batch()
    model = joint(replace(SMALL, layers=layers))
    assert model(batch).shape == batch.candidate.shape


def test_what_counts_or_multiplies_needs_something_to_count_or_multiply():
    cases = (
        ({"habits": ["kind"]}, r"\['kind'\]; expected columns of data.items.category \(none\)"),
        ({"crosses": ["kind"]}, r"\['kind'\]; expected columns of data.items.category \(none\)"),
        ({"matches": True}, "give them"),
    )
    for setting, message in cases:
        with pytest.raises(InputError, match=message):
            Pruner(replace(SMALL, **setting), Sizes(items=20), None, vector_width=8)
        with pytest.raises(InputError, match="are for the joint transformer"):
            replace(SMALL, text=WORDS, **setting)
    with pytest.raises(InputError, match="are for the joint transformer"):
        replace(SMALL, text=WORDS, wide=True)
    for setting in ({"text": FROZEN}, {"matches": True}):
        with pytest.raises(InputError, match=r"needs model\.matches: true and model\.text"):
            replace(SMALL, searches=True, **setting)


def test_what_is_wide_adds_what_the_summed_sources_say_past_all_layers():
    batch, model = make_batch(), joint(replace(SMALL, wide=True))
    whole, states = model(batch), []
    model.joint.fusion.register_forward_hook(lambda _, __, fused: states.append(fused))
    opinion = model.wide.detach().clone()
    torch.nn.init.zeros_(model.wide)
    plain = model(batch)
    kind = model.joint.kind.weight[CANDIDATE]
    torch.testing.assert_close((whole - plain)[real(batch)], ((states[0] + kind) @ opinion)[real(batch)])


def test_the_columns_that_are_named_are_counted_for_each_kind_of_event_and_no_others():
    torch.manual_seed(0)
    batch = make_batch()
    batch = replace(batch, items=replace(batch.items, category=torch.randint(0, 5, (ITEMS, 3, 2))))
    sizes = replace(SIZES, item_category=[4, 4, 4], item_columns=["kind", "brand", "style"])
    one = Pruner(replace(SMALL, habits=["style", "kind"]), sizes, None, vector_width=8)
    users, codes = batch.users, batch.items.category
    for kind in range(3):
        history = codes[users.history] * (users.history_mask & (users.event == kind))[..., None, None]
        every = habits(history, codes[batch.candidate.clamp_min(0)], sizes.item_category)
        assert torch.equal(one._habits(batch)[..., 2 * kind : 2 * kind + 2], every[..., [2, 0]])


def test_what_alike_items_say_moves_the_logit_and_nothing_is_said_where_it_is_not_known():
    model, batch = Pruner(SMALL, replace(SIZES, neighbours=4), None, vector_width=8), make_batch()
    bare = Pruner(SMALL, SIZES, None, vector_width=8)
    assert len(model.habits) == 4
    assert bare.habits is None
    with torch.no_grad():
        model.habits[2] = 1.0
        told = torch.zeros(ROWS, LISTED, 4)
        np.testing.assert_array_equal(model(batch), model(replace(batch, neighbours=told)))
        told[..., 2] = 0.5
        moved = model(replace(batch, neighbours=told)) - model(batch)
    real = batch.candidate >= 0
    np.testing.assert_allclose(moved[real], 5.0, rtol=1e-5)  # ten times as fast as the rest


def test_whose_history_is_hidden_is_told_nothing_by_alike_items():
    model = Pruner(replace(SMALL, hide=0.5), replace(SIZES, neighbours=4), None, vector_width=8).train()
    batch = replace(make_batch(), neighbours=torch.ones(ROWS, LISTED, 4))
    torch.manual_seed(0)
    for _ in range(8):
        found = model.joint.partly_hidden(batch)
        hidden = batch.users.history_mask.any(1) & ~found.users.history_mask.any(1)
        assert not found.neighbours[hidden].any()
        assert found.neighbours[found.users.history_mask.any(1)].all()


@pytest.mark.parametrize("columns", [[], ["kind"]])
def test_in_the_place_of_a_column_events_tell_how_the_history_shares_out(columns):
    batch = make_batch()
    if columns:
        batch = replace(batch, items=replace(batch.items, category=torch.randint(0, 5, (ITEMS, 1, 2))))
    sizes = replace(SIZES, item_category=[4] * len(columns), item_columns=columns)
    found = Pruner(replace(SMALL, habits=["events", *columns]), sizes, None, vector_width=8)._habits(batch)
    expected = event_shares(batch.users.event, batch.users.history_mask, 3)
    assert found.shape[-1] == 3 + 3 * len(columns)
    assert torch.equal(found[..., -3:], expected[:, None].expand(*batch.candidate.shape, 3))


def test_a_search_in_the_history_is_read_as_its_query():
    batch, model = make_batch(), joint()
    history = batch.users.history.clone()
    history[0, 5] = ITEMS + 2
    with_search = replace(batch, users=replace(batch.users, history=history))
    other = batch.users.query_vector.clone()
    other[2] *= -1
    changed = replace(with_search, users=replace(with_search.users, query_vector=other))
    assert not torch.allclose(model(with_search)[0], model(changed)[0])


def test_the_pruner_works_without_texts_and_without_columns():
    batch = make_batch()
    users = UserBatch(history=batch.users.history, history_mask=batch.users.history_mask)
    bare = replace(batch, users=users, items=ItemBatch(index=batch.items.index), pairs=None)
    model = with_opinion(Pruner(SMALL, Sizes(items=20), None, vector_width=8).eval())
    assert torch.isfinite(model(bare)[real(bare)]).all()


@pytest.mark.parametrize("make", [joint, matching, crossed])
def test_every_weight_gets_a_finite_gradient(make):
    batch, model = make_batch(), make()
    rank = torch.arange(LISTED).expand(ROWS, LISTED).masked_fill(~real(batch), -1)
    model(replace(batch, rank=rank))[real(batch)].sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


def test_the_evidence_is_standardised_over_real_candidates_and_knows_the_rank():
    batch = make_batch()
    evidence = retriever_evidence(batch, real(batch))
    for row, count in enumerate(real(batch).sum(1).tolist()):
        scores = batch.retriever_score[row, :count].double().numpy()
        expected = (scores - scores.mean()) / (scores.std() or 1)
        np.testing.assert_allclose(evidence[row, :count, 0], expected, atol=1e-5)
    assert torch.equal(evidence[0, :, 1], torch.arange(LISTED).float().log1p())
    scaled = replace(batch, retriever_score=batch.retriever_score * 30 - 5)
    torch.testing.assert_close(retriever_evidence(scaled, real(batch))[..., 0], evidence[..., 0], atol=1e-4, rtol=0)
    ranked = replace(batch, rank=torch.full((ROWS, LISTED), 8))
    assert retriever_evidence(ranked, real(batch))[0, 0, 1] == pytest.approx(np.log(9))


def test_a_lexical_score_is_a_third_column_standardised_alike():
    batch = make_batch()
    lexical = torch.rand(ROWS, LISTED).masked_fill(~real(batch), 0)
    evidence = retriever_evidence(replace(batch, lexical_score=lexical), real(batch), lexical=True)
    torch.testing.assert_close(evidence[..., :2], retriever_evidence(batch, real(batch)), rtol=0, atol=0)
    as_score = replace(batch, retriever_score=lexical)
    torch.testing.assert_close(evidence[..., 2], retriever_evidence(as_score, real(batch))[..., 0], rtol=0, atol=0)
    assert not retriever_evidence(batch, real(batch), lexical=True)[..., 2].any()


def test_an_untrained_pruner_beside_a_lexical_source_keeps_the_order_too_and_learns_its_weight(tmp_path):
    batch = replace(make_batch(), lexical_score=torch.rand(ROWS, LISTED))
    model = Pruner(SMALL, SIZES, None, vector_width=8, lexical=True).eval()
    logits = model(batch)
    assert all(row[row.isfinite()].diff().le(0).all() for row in logits)
    logits[real(batch)].square().sum().backward()
    assert model.weights.grad[2] != 0
    save_pruner(model, tmp_path)
    torch.testing.assert_close(load_pruner(tmp_path)(batch), logits, rtol=0, atol=0)


def test_a_pruner_without_a_lexical_source_does_not_see_its_scores():
    batch, model = make_batch(), joint()
    with_scores = replace(batch, lexical_score=torch.rand(ROWS, LISTED))
    torch.testing.assert_close(model(with_scores), model(batch), rtol=0, atol=0)


def test_autocast_leaves_the_order_of_an_untrained_pruner_alone():
    batch, model = make_batch(), joint(trained=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(batch), model(batch))
        assert model(batch).dtype == torch.float32
        assert torch.equal(model(batch).argsort(dim=1, descending=True, stable=True)[0], torch.arange(LISTED))


def test_probabilities_are_calibrated_logits_without_overflow_and_zero_at_padding():
    model = joint()
    model.meaning["users"] = Meaning(calibration=Calibration(scale=2.0, shift=-1.0))
    logits = np.array([[0.0, 3.0, 1e4, -1e4, -np.inf]] * 2, dtype=np.float32)
    users, queries = model.probability(logits, np.array([[False], [True]]))
    np.testing.assert_allclose(users, [1 / (1 + np.exp(1)), 1 / (1 + np.exp(-5)), 1, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(queries, [0.5, 1 / (1 + np.exp(-3)), 1, 0, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PrunerConfig(width=10, heads=4), "multiple"),
        (lambda: PrunerConfig(history=0), "at least 1"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- pictures, reviews and ads


def sourced(batch: PrunerBatch | None = None) -> PrunerBatch:
    """The batch with pictures, of which one is missing, and with reviews and ads of some candidates."""
    batch, draw = batch or make_batch(), torch.Generator().manual_seed(5)

    def notes(numbers: int) -> NoteBatch:
        row = torch.randint(-1, 4, (ROWS, LISTED, 2), generator=draw)
        return NoteBatch(
            row=row, vector=torch.randn(4, 6, generator=draw), number=torch.randn(4, numbers, generator=draw),
            age=torch.rand(ROWS, LISTED, 2, generator=draw) * 30,
        )  # fmt: skip

    known = torch.arange(ITEMS) != 3
    items = replace(batch.items, image_vector=torch.randn(ITEMS, 5, generator=draw), image_known=known)
    return replace(batch, items=items, reviews=notes(1), ads=notes(0))


def seeing(**changes: object) -> Pruner:
    torch.manual_seed(0)
    text, image = torch.nn.Module(), torch.nn.Module()
    text.width, image.width = 6, 5
    config = replace(SMALL, text=FROZEN, image=ImageConfig(model="somewhere"), **changes)
    sizes = replace(SIZES, reviews=1, ads=0)
    return with_opinion(Pruner(config, sizes, text, vector_width=8, image=image)).eval()


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["sum", "concat", "gated", "attention"])
def test_every_source_of_a_candidate_moves_its_score(fusion):
    model, batch = seeing(fusion=fusion), sourced()
    for weight in model.joint.fusion.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    plain = model(batch)[real(batch)]
    without = {
        "text": replace(batch, items=replace(batch.items, text_vector=None)),
        "image": replace(batch, items=replace(batch.items, image_vector=None, image_known=None)),
        "reviews": replace(batch, reviews=None), "ads": replace(batch, ads=None),
    }  # fmt: skip
    for name, changed in without.items():
        assert (model(changed)[real(batch)] - plain).abs().max() > 1e-4, name


@torch.no_grad()
def test_a_source_that_a_batch_lacks_is_one_that_every_candidate_lacks():
    model, batch = seeing(), sourced()
    none = replace(batch.items, image_known=torch.zeros(ITEMS, dtype=torch.bool))
    bare = replace(batch.items, image_vector=None, image_known=None)
    pairs = [(replace(batch, items=none), replace(batch, items=bare))]
    nobody = replace(batch.reviews, row=torch.full_like(batch.reviews.row, -1))
    pairs.append((replace(batch, reviews=nobody), replace(batch, reviews=None)))
    for missing, absent in pairs:
        torch.testing.assert_close(model(missing), model(absent), rtol=0, atol=1e-6)


def test_every_weight_gets_a_gradient_when_sources_are_there_hidden_or_absent():
    for batch in (sourced(), make_batch()):
        model = seeing(hide=0.5, fusion="gated").train()
        logits = model(batch)
        logits[real(batch)].sum().backward()
        lacking = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
        assert lacking == []


def test_sources_are_hidden_in_training_alone_each_by_itself():
    model, batch = seeing(hide=0.5, dropout=0.0), sourced()
    torch.manual_seed(1)
    trained = [model.train()(batch).detach() for _ in range(3)]
    assert not torch.equal(trained[0], trained[1])
    model.eval()
    assert torch.equal(model(batch), model(batch))


@torch.no_grad()
def test_what_training_hides_is_what_inference_lacks():
    model, batch = seeing(hide=1 - 1e-7, dropout=0.0, habits=["kind"], matches=True), sourced()
    torch.nn.init.normal_(model.habits)
    users, items = batch.users, batch.items
    now = users.context[torch.arange(ROWS), users.history_mask.sum(1)]
    bare = replace(
        batch, reviews=None, ads=None, items=replace(items, text_vector=None, image_vector=None, image_known=None),
        users=replace(
            users, history_mask=torch.zeros_like(users.history_mask), profile=torch.zeros_like(users.profile),
            context=torch.zeros_like(now)[:, None],
        ),
    )  # fmt: skip
    torch.testing.assert_close(model.train()(batch), model.eval()(bare), rtol=0, atol=1e-6)


def test_a_pruner_with_sources_is_loaded_to_the_bit(tmp_path):
    torch.manual_seed(0)
    text = TextEncoder.build(WORDS, vocab_size=50)
    image = ImageEncoder.build(ImageConfig(model="config:", mode="full", pixels=16, layers=1, width=4))
    text.save(tmp_path / "words")
    image.save(tmp_path / "pictures")
    config = replace(
        SMALL, text=TextConfig(model=str(tmp_path / "words"), max_tokens=16), fusion="attention",
        image=ImageConfig(model=str(tmp_path / "pictures"), pixels=16),
    )  # fmt: skip
    frozen = TextEncoder.build(config.text, vocab_size=50)
    pictures = ImageEncoder.build(config.image)
    sizes = replace(SIZES, reviews=1, ads=0)
    model = with_opinion(Pruner(config, sizes, frozen, vector_width=8, image=pictures)).eval()
    save_pruner(model, tmp_path / "model")
    loaded = load_pruner(tmp_path / "model")
    batch = sourced()
    wide = replace(
        batch, items=replace(batch.items, text_vector=torch.randn(ITEMS, 16), image_vector=torch.randn(ITEMS, 16)),
        users=replace(batch.users, query_vector=torch.randn(QUERIES, 16)),
        reviews=replace(batch.reviews, vector=torch.randn(4, 16)), ads=replace(batch.ads, vector=torch.randn(4, 16)),
    )  # fmt: skip
    assert torch.equal(loaded(wide), model(wide))


def test_pictures_are_refused_where_they_are_not_read():
    with pytest.raises(InputError, match="mode frozen"):
        PrunerConfig(image=ImageConfig(model="config:", mode="full"))
    with pytest.raises(InputError, match="joint transformer"):
        PrunerConfig(text=WORDS, image=ImageConfig(model="somewhere"))
    with pytest.raises(InputError, match="hide"):
        PrunerConfig(hide=1.0)


def test_a_query_without_words_is_the_missing_vector_of_words() -> None:
    model, batch = matching(), make_batch()
    assert model.joint is not None
    worded = torch.tensor([True, True, False])
    logits = model(replace(batch, users=replace(batch.users, query_text_known=worded)))
    other = torch.where(worded[:, None], batch.users.query_vector, torch.randn(3, 6))
    torch.testing.assert_close(
        model(replace(batch, users=replace(batch.users, query_text_known=worded, query_vector=other))), logits
    )
    plain = model(batch)
    torch.testing.assert_close(logits[[0, 1, 3]], plain[[0, 1, 3]])
    assert (logits[2, 0] - plain[2, 0]).abs() > 1e-5
    with torch.no_grad():
        model.joint.missing["text"] += 1
    moved = model(replace(batch, users=replace(batch.users, query_text_known=worded)))
    assert (moved[2, 0] - logits[2, 0]).abs() > 1e-5
