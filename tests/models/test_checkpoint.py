import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recsys.batch import ItemBatch, TextBatch, UserBatch
from recsys.config import ImageConfig, TextConfig
from recsys.errors import InputError
from recsys.models.checkpoint import (
    count_parameters,
    load_pruner,
    load_retriever,
    read_config,
    save_pruner,
    save_retriever,
)
from recsys.models.decision import KINDS, Calibration, DecisionConfig, Meaning, Promises
from recsys.models.history import HistoryEncoderConfig
from recsys.models.image import ImageEncoder
from recsys.models.pruner import Pruner, PrunerConfig
from recsys.models.text import TextEncoder
from recsys.models.towers import Retriever, RetrieverConfig, Sizes

TEXT = TextConfig(model="config:", mode="full", layers=1, width=16, heads=2, max_tokens=8)
SIZES = Sizes(items=5, item_category=[3], item_number=1, user_category=[2], context=[4], event=2)


def make(text: TextConfig | None = TEXT) -> Retriever:
    torch.manual_seed(0)
    config = RetrieverConfig(text=text, width=16, history=HistoryEncoderConfig(layers=1, heads=2))
    return Retriever(config, SIZES, TextEncoder.build(text, 30) if text else None).eval()


@torch.no_grad()
def vectors(model: Retriever) -> torch.Tensor:
    words = TextBatch(ids=torch.arange(1, 16).view(5, 3), mask=torch.ones(5, 3, dtype=torch.bool))
    items = model.encode_items(
        ItemBatch(
            index=torch.arange(5) - 1, text=words if model.text else None, category=torch.ones(5, 1, 1).long(),
            number=torch.zeros(5, 1),
        )
    )  # fmt: skip
    history = torch.tensor([[0, 4], [2, 1]])
    return model.encode_users(UserBatch(history=history, history_mask=history >= 0, event=history % 2), items)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_retriever(make(), tmp_path / "model")
    return tmp_path / "model"


def test_a_loaded_model_is_equal_to_the_bit(folder: Path) -> None:
    model, loaded = make(), load_retriever(folder)
    assert not loaded.training
    assert torch.equal(vectors(loaded), vectors(model))
    assert {name: weight.shape for name, weight in loaded.state_dict().items()} == {
        name: weight.shape for name, weight in model.state_dict().items()
    }


def test_a_model_without_text_needs_no_text_folder(tmp_path: Path) -> None:
    model = make(text=None)
    save_retriever(model, tmp_path)
    assert not (tmp_path / "text").exists()
    assert torch.equal(vectors(load_retriever(tmp_path)), vectors(model))


def test_config_and_sizes_come_back_as_they_were(folder: Path) -> None:
    model, loaded = make(), load_retriever(folder)
    assert asdict(loaded.config) == asdict(model.config)
    assert loaded.sizes == SIZES


def test_the_text_encoder_is_stored_once(folder: Path) -> None:
    assert not [name for name in load_file(folder / "model.safetensors") if name.startswith("text.")]
    assert (folder / "text" / "model.safetensors").is_file()


def test_a_model_loads_without_lightning(folder: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from recsys.models.checkpoint import load_retriever
load_retriever(Path({str(folder)!r}))
assert "lightning" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        load_retriever(tmp_path)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"kind": "pruner", "schema": 1}', '{"kind": "retriever", "schema": 99}']
)
def test_a_config_of_another_kind_or_schema_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        read_config(folder, "retriever")


@pytest.mark.parametrize("part", ["config", "sizes"])
def test_a_config_with_a_key_too_many_or_too_few_is_refused(folder: Path, part: str) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, part: {**content[part], "surprise": 1}}))
    with pytest.raises(InputError, match="surprise"):
        load_retriever(folder)
    (folder / "config.json").write_text(json.dumps({name: value for name, value in content.items() if name != part}))
    with pytest.raises(InputError, match=part):
        load_retriever(folder)


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_retriever(folder)


def test_a_file_that_is_cut_short_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_retriever(folder)


def test_a_surplus_a_missing_and_a_misshapen_weight_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "items.id.weight"
    wrong = {
        "surprise": {**weights, "surprise": torch.zeros(1)},
        name: {key: weight for key, weight in weights.items() if key != name},
        "log_scale": {**weights, "log_scale": torch.zeros(2)},
    }
    for odd, content in wrong.items():
        save_file(content, path)
        with pytest.raises(InputError, match=odd):
            load_retriever(folder)


def test_a_missing_text_folder_is_refused(folder: Path) -> None:
    (folder / "text" / "config.json").unlink()
    with pytest.raises(InputError, match="no text model"):
        load_retriever(folder)


def test_frozen_weights_count_as_weights_and_not_as_trained_ones() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1).requires_grad_(False))
    assert count_parameters(model) == (13, 9)


MEANING = {
    "users": Meaning(
        calibration=Calibration(scale=0.1, shift=-0.7, corners=((-1.5, 0.1), (2.0, 1 / 3))),
        promises=Promises(lists=4, relevant=9, thresholds=((0.1, 0.2), (0.5, 0.3))),
    ),
    "queries": Meaning(calibration=Calibration(scale=2.0)),
}


@pytest.fixture
def pruner(tmp_path: Path) -> Path:
    model = Pruner(PrunerConfig(width=8, layers=1, heads=2), SIZES, None, vector_width=8)
    model.meaning = MEANING
    model.decision = DecisionConfig(probability=0.2, loss=0.1)
    save_pruner(model, tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, **values: object) -> None:
    content = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(content))


def test_a_pruners_calibration_decision_and_promises_come_back_as_they_were(pruner: Path) -> None:
    loaded = load_pruner(pruner)
    assert loaded.meaning == MEANING
    assert loaded.decision == DecisionConfig(probability=0.2, loss=0.1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("decision", {"surprise": 1}),
        ("meaning", {}),
        ("meaning", {kind: {"calibration": {"scale": 1.0}, "promises": None} for kind in KINDS}),
        ("meaning", {kind: {"calibration": {"scale": 1.0, "shift": 0.0, "corners": [[1.0]]}} for kind in KINDS}),
    ],
)
def test_a_pruner_that_is_described_wrongly_is_refused(pruner: Path, key: str, value: object) -> None:
    change(pruner, **{key: value})
    with pytest.raises(InputError, match="does not describe a model of this version"):
        load_pruner(pruner)


def test_a_pruner_of_a_version_that_counted_all_columns_or_none_is_loaded_or_refused(pruner: Path) -> None:
    config = json.loads((pruner / "config.json").read_text())["config"]
    change(pruner, config={**config, "habits": False})
    assert load_pruner(pruner).config.habits == []
    change(pruner, config={**config, "habits": True})
    with pytest.raises(InputError, match="expected a list of columns"):
        load_pruner(pruner)


def test_a_model_with_pictures_is_equal_to_the_bit_and_its_encoder_lies_in_a_folder_of_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = ImageConfig(model="config:", mode="full", pixels=16, layers=1, width=4)
    config = RetrieverConfig(width=16, image=image, id_vector=False, history=None)
    model = Retriever(config, Sizes(items=5, user_category=[2]), None, ImageEncoder.build(image)).eval()
    save_retriever(model, tmp_path / "model")
    loaded = load_retriever(tmp_path / "model")
    pixels = torch.arange(5 * 3 * 16 * 16).view(5, 3, 16, 16).to(torch.uint8)
    batch = ItemBatch(index=torch.arange(5), image=pixels, image_known=torch.arange(5) < 4)
    assert torch.equal(loaded.encode_items(batch), model.encode_items(batch))
    assert not any(name.startswith("image.") for name in load_file(tmp_path / "model/model.safetensors"))
    assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "model/image").iterdir()}
