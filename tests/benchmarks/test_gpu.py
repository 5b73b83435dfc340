import json
from pathlib import Path

import gpu
import numpy as np
import pytest
import torch
from gpu import Measured, made_up_texts
from render import render

from recsys.batch import TextBatch
from recsys.models.text import TextEncoder


def test_without_a_gpu_nothing_is_measured_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main([f"--figures={tmp_path}"])
    assert "not measured: no CUDA GPU" in capsys.readouterr().out
    assert "not measured: no CUDA GPU" in render(tmp_path)


def test_a_toy_goes_the_whole_way_on_a_cpu(tmp_path: Path):
    gpu.main(["--device=cpu", "--tiny", f"--figures={tmp_path}"])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["training", "encoding"]
    assert all(row[side]["tokens"] > row[side]["rows"] > 0 for row in found["rows"] for side in gpu.SIDES)
    assert all(row["ours"]["share"] > 0 for row in found["rows"])
    assert "| training | padded |" in render(tmp_path)


def test_both_sides_encode_the_same():
    encoder = TextEncoder.build(gpu.TINY.text, vocab_size=90).eval()
    lengths = torch.tensor([3, 30] * 16)
    mask = torch.arange(30) < lengths[:, None]
    batch = TextBatch(ids=torch.randint(5, 90, mask.shape), mask=mask)
    plain = encoder(batch)
    gpu.encodes(encoder, "padded")
    assert encoder.forward.func is gpu.padded  # pyright: ignore[reportFunctionMemberAccess]
    assert torch.allclose(encoder(batch), plain, atol=1e-5)
    gpu.encodes(encoder, "ours")
    assert torch.equal(encoder(batch), plain)


def test_made_up_texts_are_of_mixed_lengths_and_the_same_every_time():
    texts = made_up_texts(200, 1, middle=64, shortest=8, longest=250)
    assert texts == made_up_texts(200, 1, middle=64, shortest=8, longest=250)
    lengths = np.array([len(text.split()) for text in texts])
    assert lengths.min() >= 8
    assert lengths.max() <= 250
    assert np.percentile(lengths, 90) > 3 * np.percentile(lengths, 10)


def test_medians_are_taken_field_by_field():
    turns = [Measured(rows=float(one), tokens=1.0, share=2.0 * one, memory=0.0) for one in (1, 9, 2)]
    assert Measured.median(turns) == Measured(rows=2.0, tokens=1.0, share=4.0, memory=0.0)
