"""What `precision: auto` makes of a chip."""

import pytest
import torch

from recsys.training.precision import resolve_precision


def on(monkeypatch: pytest.MonkeyPatch, *, gpu: bool, units: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: units or including_emulation)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": units, "amx_bf16": False})


def test_a_named_precision_is_kept(monkeypatch):
    on(monkeypatch, gpu=True, units=True)
    assert resolve_precision("32-true", "auto") == "32-true"


@pytest.mark.parametrize(
    ("gpu", "units", "accelerator", "expected"),
    [
        (True, True, "auto", "bf16-mixed"),
        (True, False, "gpu", "16-mixed"),  # a V100 only emulates bfloat16
        (True, False, "cpu", "32-true"),
        (False, True, "auto", "bf16-mixed"),
        (False, False, "auto", "32-true"),
    ],
)
def test_auto_takes_what_the_chip_has_in_hardware(monkeypatch, gpu, units, accelerator, expected):
    on(monkeypatch, gpu=gpu, units=units)
    assert resolve_precision("auto", accelerator) == expected


def test_this_machines_own_answer_is_a_precision_of_lightning():
    assert resolve_precision("auto", "auto") in ("bf16-mixed", "16-mixed", "32-true")
