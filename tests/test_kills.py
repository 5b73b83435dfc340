"""A training that is killed again and again ends in the bits of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from recsys.data.sources.shop import write_shop

ROOT = Path(__file__).parents[1]
KILLS = 20


def start(config: Path, name: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "train.py", str(config), f"--name={name}", "--resume=auto"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def count(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.is_file() else 0


@pytest.mark.slow
def test_twenty_kills_at_random_steps_change_no_bit(tmp_path: Path) -> None:
    write_shop(tmp_path / "shop", size=60)
    content = {
        "task": "retriever", "name": "x", "runs": str(tmp_path / "runs"),
        "data": {
            "root": str(tmp_path / "shop"), "cache": str(tmp_path / "cache"), "history": {"max_items": 12},
            "items": {"text": ["title"], "category": ["category"]}, "tables": {"queries": "", "relevance": ""},
            "interactions": {"event": "event", "target_events": ["purchase"]},
        },
        "model": {"width": 16, "history": {"layers": 1, "heads": 2}}, "negatives": {"kind": "batch", "random": 16},
        "loader": {"batch_size": 4}, "optim": {"epochs": 20}, "track": {"every": 1},
        "trainer": {"accelerator": "cpu", "threads": 1, "check_every": 5, "save_every": 7},
    }  # fmt: skip
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(content))
    assert start(config, "whole").wait(timeout=600) == 0
    whole, killed = tmp_path / "runs/whole", tmp_path / "runs/killed"
    steps = count(whole / "metrics.jsonl")
    draw, done = random.Random(0), 0
    while done < KILLS:
        process = start(config, "killed")
        at = count(killed / "metrics.jsonl") + draw.randrange(1, max(steps // KILLS, 2))
        while count(killed / "metrics.jsonl") < at and process.poll() is None:
            time.sleep(0.002)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
    assert done == KILLS
    assert start(config, "killed").wait(timeout=600) == 0
    assert (killed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    expected, found = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (whole, killed)
    )
    assert [name for name, weight in expected.items() if not torch.equal(weight, found[name])] == []
