"""Ready-made vectors through the whole cascade: used, hidden as what is missing, explained, exported."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from recsys.cli import main
from recsys.config import parse_run
from recsys.data.requests import user_requests
from recsys.data.sources.shop import write_shop
from recsys.data.split import VALID
from recsys.errors import InputError
from recsys.recommend.cascade import Cascade
from recsys.recommend.counterfactual import Counterfactuals
from recsys.recommend.deletions import Asked, Unit
from recsys.recommend.evidence import Explainer
from recsys.recommend.facts import nameable
from recsys.recommend.recommender import Recommender
from recsys.recommend.settings import InferRun
from recsys.recommend.words import Words
from recsys.retrieval.runtime import open_onnx

ROLES = {
    "items": {"text": ["title"], "category": ["category"], "vectors": ["audio", "video"]},
    "users": {"category": ["age", "region"]}, "interactions": {"event": "event", "target_events": ["purchase"]},
    "split": {"by": "last", "second": 1},
}  # fmt: skip
TEXT = {"model": "config:", "mode": "full", "layers": 1, "width": 16, "heads": 2, "max_tokens": 16, "vocab": 300}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny shop with vectors of two kinds, a retriever and a pruner that read them, and an inference run's lists."""
    folder = tmp_path_factory.mktemp("ready")
    write_shop(folder / "tables", size=60)
    items, rng = pl.read_parquet(folder / "tables/items.parquet"), np.random.default_rng(0)
    audio, video = (rng.normal(size=(len(items), width)) for width in (5, 3))
    missing = pl.int_range(pl.len()) % 7 == 3
    columns = [
        pl.when(~missing).then(pl.Series("audio", audio.tolist())).alias("audio"),
        pl.Series("video", video.astype(np.float32), dtype=pl.Array(pl.Float32, 3)),
    ]
    items.with_columns(columns).write_parquet(folder / "tables/items.parquet")
    runs, train = f"{folder}/runs", {"loader": {"batch_size": 16}, "trainer": {"accelerator": "cpu", "threads": 1}}
    write(folder, "retriever", **train, optim={"epochs": 1, "lr": 0.003}, tasks=["next_item"],
          model={"text": TEXT, "width": 16, "hide": 0.2, "id_vector": False, "history": {"layers": 1, "heads": 2},
                 "dynamic": {"width": 8, "candidates": 20, "negatives": 4}},
          negatives={"kind": "batch", "random": 16})  # fmt: skip
    write(folder, "pruner", **train, optim={"epochs": 1, "lr": 0.003}, candidates=f"{runs}/infer/candidates",
          model={"text": {"mode": "frozen", "model": f"{runs}/retriever/model/text", "max_tokens": 16},
                 "fusion": "gated", "hide": 0.2, "matches": True, "width": 16, "layers": 1, "heads": 2,
                 "history": 8})  # fmt: skip
    write(folder, "infer", retriever=f"{runs}/retriever", pruner=f"{runs}/pruner", candidates=20, threads=1)
    for command in ("train retriever", "infer candidates infer", "train pruner", "infer recommend infer"):
        *words, name = command.split()
        assert main([*words, f"{folder}/{name}.yaml"]) == 0
    return folder


def write(folder: Path, task: str, **values: object) -> None:
    history = {"max_items": 20, **({"until": "valid"} if task == "infer" else {})}
    tables = {"reviews": "", "ads": "", "queries": "", "relevance": ""}
    data = {**ROLES, "root": f"{folder}/tables", "tables": tables, "cache": f"{folder}/cache", "history": history}
    content = {"task": task, "name": task, "runs": f"{folder}/runs", "data": data, **values}
    (folder / f"{task}.yaml").write_text(yaml.safe_dump(content))


def opened(folder: Path, *overrides: str, hidden: tuple[str, ...] = (), **more: object) -> Cascade:
    one = parse_run(InferRun, [f"{folder}/infer.yaml", *overrides])
    return Cascade.open(one.retriever, one.pruner, one.data, 60, one.decision, hidden=hidden, **more)


def with_items(folder: Path, tmp_path: Path, **columns: pl.Expr | pl.Series) -> list[str]:
    """Overrides that put a changed items table in the place of the own one."""
    items = pl.read_parquet(folder / "tables/items.parquet").with_columns(**columns)
    items.write_parquet(tmp_path / "items.parquet")
    tables = {"reviews": "", "ads": "", "queries": "", "relevance": "", "items": f"{tmp_path}/items.parquet"}
    return [f"--data.tables={json.dumps(tables)}", f"--data.cache={tmp_path}/cache"]


def judged(cascade: Cascade) -> tuple[np.ndarray, np.ndarray]:
    """Logits and the retriever's scores, [R, N], of all items for some valid users, by item; 0 for what they own."""
    found, logits = cascade.judge(user_requests(cascade.data, VALID).take(np.arange(12)))
    assert logits is not None
    place, real = np.argsort(found.items, axis=1), found.items >= 0
    values = (np.where(real, one, 0.0) for one in (logits, found.scores))
    logits, scores = (np.take_along_axis(one, place, 1) for one in values)
    return logits, scores


@pytest.mark.parametrize("source", ["audio", "video"])
def test_a_column_that_is_hidden_scores_as_one_without_any_vector_and_it_is_used(folder, tmp_path, source):
    hidden, whole = judged(opened(folder, hidden=(source,))), judged(opened(folder))
    nothing = with_items(folder, tmp_path, **{source: pl.lit(None)})
    for one, other, all_there in zip(hidden, judged(opened(folder, *nothing)), whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
        assert np.abs(one - all_there).max() > 1e-4


def test_a_broken_vector_scores_as_a_missing_one(folder, tmp_path):
    row = pl.int_range(pl.len())
    broken = pl.when(row == 1).then([1.0]).when(row == 2).then([float("nan")] * 5).otherwise(pl.col("audio"))
    missing = pl.when((row == 1) | (row == 2)).then(None).otherwise(pl.col("audio"))
    found = []
    for name, cells in (("broken", broken), ("missing", missing)):
        (tmp_path / name).mkdir()
        found.append(judged(opened(folder, *with_items(folder, tmp_path / name, audio=cells))))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_ablate_hides_each_column_under_its_name(folder, capsys):
    assert main(["ablate", f"{folder}/runs/infer"]) == 0
    rows = json.loads((folder / "runs/infer/ablation.json").read_text())["rows"]
    assert [one["source"] for one in rows] == ["nothing", "text", "profile", "history", "audio", "video"]
    assert "audio" in capsys.readouterr().out


def test_a_column_is_taken_from_one_item_alone_and_is_named_as_evidence(folder):
    cascade = opened(folder)
    requests = user_requests(cascade.data, VALID).take(np.arange(2))
    without = Counterfactuals(cascade, requests, Words())
    first, second = without.found.items[0, :2].tolist()
    base = without.scores([Asked(0, first), Asked(0, second)])
    changed = without.scores([Asked(0, first, frozenset({Unit.source("video")})), Asked(0, second)])
    assert abs(changed[0] - base[0]) > 1e-6
    assert changed[1] == pytest.approx(base[1], abs=1e-6)
    explainer = Explainer(cascade, history=2, words=0)
    (found,) = explainer.explain(explainer.open(requests), [(0, first)])
    worths = {one.name: one.worth for one in found.evidence if one.kind == "source"}
    assert {"audio", "video"} <= set(worths)
    named = {one.name for one in nameable(found.evidence, {})}
    assert all((name in named) == (worths[name] > 1e-4) for name in ("audio", "video"))


def test_single_requests_are_answered(folder):
    assert len(Recommender.load(folder / "runs/infer").recommend(["i00001", "i00002"])) == 10


@pytest.mark.slow
def test_onnx_files_of_both_models_give_the_same_scores(folder, tmp_path):
    export = [f"{folder}/infer.yaml", "--export.format=onnx", f"--output={tmp_path}/onnx"]
    assert main(["infer", "export", *export]) == 0
    served = opened(folder, runtime=open_onnx(tmp_path / "onnx", int8=False))
    for one, other in zip(judged(served), judged(opened(folder)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("--data.items.vectors=[audio]", r"was trained with data\.items\.vectors: \['audio', 'video'\]"),
        ("--data.items.vectors=[video,audio]", "Use the data section of the training run's config"),
    ],
)
def test_other_columns_than_the_models_are_refused(folder, change, said):
    with pytest.raises(InputError, match=said):
        opened(folder, change)


def test_vectors_of_another_width_than_the_models_are_refused(folder, tmp_path):
    wider = with_items(folder, tmp_path, video=pl.lit([1.0, 2.0]))
    with pytest.raises(InputError, match=r"items\.video holds vectors of 2 numbers, and the model was trained with 3"):
        opened(folder, *wider)


def test_a_column_without_any_vector_is_not_trained_on(folder, tmp_path, capsys):
    nothing = with_items(folder, tmp_path, audio=pl.lit(None))
    assert main(["train", f"{folder}/retriever.yaml", f"--runs={tmp_path}", *nothing]) == 2
    assert "items.audio holds no vector in any of" in capsys.readouterr().err
