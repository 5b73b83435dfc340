"""Which index is chosen, and settings that cannot be."""

import numpy as np
import pytest

from recsys.errors import InputError
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.kinds import IndexConfig, Settings, choose, weight


@pytest.mark.parametrize(
    ("items", "config", "kind"),
    [
        (50_000, IndexConfig(), "flat"),
        (50_001, IndexConfig(), "ivf_sq8"),
        (1_000_000, IndexConfig(memory=0.4), "ivf_sq8"),
        (1_000_000, IndexConfig(memory=0.2), "ivf_pq"),
        (1_000_000, IndexConfig(kind="hnsw"), "hnsw"),
        (40_000, IndexConfig(memory=0.03), "ivf_sq8"),
    ],
)
def test_the_kind_follows_from_size_and_memory(items, config, kind):
    found = choose(items, 384, config)
    assert found.kind == kind
    assert config.memory is None or weight(found, items, 384) <= config.memory * 2**30


def test_no_centroid_is_learnt_from_fewer_than_39_items():
    for items in (1_000, 50_001, 300_000, 1_000_000, 10_000_000):
        lists = choose(items, 384, IndexConfig(kind="ivf_flat")).lists
        assert 39 * lists <= items
        assert lists >= np.sqrt(items) or items < 2_000


def test_a_memory_that_nothing_fits_into_is_refused_with_what_it_takes():
    with pytest.raises(
        InputError, match=r"0\.01 GiB, and 1,000,000 items of width 384 take .* GiB as flat; give it more"
    ):
        choose(1_000_000, 384, IndexConfig(kind="flat", memory=0.01))


def test_more_centroids_than_items_are_refused():
    with pytest.raises(InputError, match=r"ivf_pq learns 256 centroids from 100 items; take index\.kind: flat"):
        ItemIndex.build(np.ones((100, 8), dtype=np.float32), Settings(kind="ivf_pq", lists=4, breadth=1, code=4))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"recall": 0}, r"index\.recall is 0"), ({"recall": 1.1}, r"index\.recall is 1\.1"),
        ({"k": 0}, r"index\.k is 0"), ({"sample": 0}, r"index\.sample is 0"),
        ({"memory": 0}, r"index\.memory is 0 GiB"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        IndexConfig(**wrong)


@pytest.mark.parametrize("kind", ["ivf_flat", "hnsw"])
def test_an_index_that_looks_at_nothing_is_refused(kind):
    with pytest.raises(InputError, match="expected"):
        Settings(kind=kind)
