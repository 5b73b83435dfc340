"""What is killed again and again ends in the bits of what was left alone: a training, and inference by any workers."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pytest
import torch
import yaml

from recsys.data.sources.shop import write_shop

ROOT = Path(__file__).parents[1]
KILLS = 20


class Journey(Protocol):
    """The fixture of a trained retriever and pruner."""

    def config(self, name: str) -> Path: ...


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


def serve(journey: Journey, runs: Path, workers: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    options = [f"--runs={runs}", f"--data.cache={runs}/cache", "--part=1", f"--workers={workers}", "--evaluate=false"]
    command = [sys.executable, "infer.py", "recommend", str(journey.config("infer")), *options]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def output(runs: Path) -> dict[str, bytes]:
    """All that was written, but for how long it took and what a killed process has left half-written beside it."""
    folders = (runs / "infer" / name for name in ("recommendations", "vectors"))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != "DONE"]
    return {str(path.relative_to(runs)): path.read_bytes() for path in files if "/." not in str(path)}


def kill_somebody(process: subprocess.Popen[bytes], draw: random.Random) -> None:
    """The parent, with whom its workers end, or one of the workers, of whom the parent then tells."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()] if children.is_file() else []
    with suppress(ProcessLookupError):
        os.kill(draw.choice([process.pid, process.pid, *workers]), signal.SIGKILL)
    process.wait(timeout=120)


def kill_inference(journey: Journey, folder: Path, kills: int) -> None:
    """So many kills at random moments, by 1, 2 and 3 workers in turn; whenever an output is whole, another is begun."""
    assert serve(journey, folder / "whole", 1).wait(timeout=300) == 0
    expected, draw, done, runs = output(folder / "whole"), random.Random(0), 0, 0
    assert len([name for name in expected if name.endswith(".parquet")]) == 40
    while done < kills:
        process = serve(journey, folder / str(runs), 1 + done % 3)
        parts = folder / str(runs) / "infer/recommendations"
        at, end = len(list(parts.glob("part-*.json"))) + draw.randrange(12), time.monotonic() + 240
        while len(list(parts.glob("part-*.json"))) < at and process.poll() is None:
            assert time.monotonic() < end, "no part was made in four minutes"
            time.sleep(0.001)
        time.sleep(draw.random() * 0.03)
        if process.poll() is None:
            kill_somebody(process, draw)
            done += 1
        if (parts / "DONE").is_file():
            assert output(folder / str(runs)) == expected
            runs += 1
    assert serve(journey, folder / str(runs), 2).wait(timeout=300) == 0
    assert output(folder / str(runs)) == expected


def test_inference_that_is_killed_five_times_writes_the_same_bytes(journey: Journey, tmp_path: Path) -> None:
    kill_inference(journey, tmp_path, 5)


@pytest.mark.slow
def test_inference_that_is_killed_fifty_times_writes_the_same_bytes(journey: Journey, tmp_path: Path) -> None:
    kill_inference(journey, tmp_path, 50)
