"""What an inference run is told."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from recsys.data.mined import MineConfig
from recsys.data.split import STAGES, order_value
from recsys.errors import InputError
from recsys.models.decision import DecisionConfig
from recsys.recommend.explain import ExplainConfig
from recsys.recommend.rerank import RerankConfig
from recsys.retrieval.export import ExportConfig
from recsys.retrieval.kinds import IndexConfig
from recsys.retrieval.lexical import LexicalConfig
from recsys.retrieval.runtime import Precision
from recsys.tables import DataConfig


@dataclass(frozen=True, kw_only=True)
class InferRun:
    """A run that makes candidates, recommendations or search results with trained models."""

    task: str
    """infer."""
    name: str
    """Of the run; output lies below RUNS/NAME."""
    runs: str = "runs"
    """Folder of all runs."""
    retriever: str
    """Folder of the retriever's training run."""
    pruner: str | None = None
    """Folder of the pruner's training run; null: the retriever alone."""
    data: DataConfig
    """The tables to serve; roles as in the retriever's config."""
    candidates: int = 100
    """Items that the retriever proposes for each request."""
    lexical: LexicalConfig | None = None
    """BM25 as a second source for queries; its list and the retriever's become one of as many; null: none."""
    mine: MineConfig = field(default_factory=MineConfig)
    """Which items of the retriever's ranking are hard negatives (stage mine)."""
    last_round: str | None = None
    """Folder of an earlier round of mining, to tell how much is new (stage mine)."""
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    """Which candidates are kept; where it says nothing, as the pruner's training run said."""
    rerank: RerankConfig | None = None
    """How users' lists are made diverse and fair to the long tail (stage recommend); null: not at all."""
    explain: ExplainConfig = field(default_factory=ExplainConfig)
    """How lists are explained, and who writes the sentences (stages explain and describe)."""
    users: str | None = None
    """CSV or Parquet file with the user ids to serve; null: all users."""
    output: str | None = None
    """Folder of the output; null: recommendations/, results/, candidates/, mined/ or taught/ below the run's folder."""
    overwrite: bool = False
    """Replace an output that was made from other inputs."""
    part: int = 1024
    """Requests in one part of the output."""
    shard: str | None = None
    """I/N: of every N parts only the I-th, from 1 on (embed, recommend, search): N processes share the work without
    knowing of each other. The one that finds all parts there checks them and measures."""
    workers: int = 1
    """Processes that make the parts (embed, recommend, search); each has its own threads and, in turn, its own GPU."""
    threads: int | None = None
    """CPU threads of each process; null: an even share of all cores. Part of what lists are made from: the last bits
    depend on it."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """What is written for other programs, or for `runtime` (stage export)."""
    runtime: Literal["torch", "onnx", "onnx_int8"] = "torch"
    """What computes text tower, item tower and pruner: torch, or onnxruntime on CPUs from the files that stage export
    wrote to onnx/ below the run's folder; the history's encoder stays in torch."""
    precision: Precision = "float32"
    """That torch encodes texts and pictures in. bfloat16 is several times as fast on chips that have it (AMX,
    AVX512-BF16, Ampere and later), float16 on a V100; vectors and scores stay float32."""
    device: str | None = None
    """cpu, cuda or cuda:N; null: a GPU where there is one."""
    vectors: Literal["float32", "float16"] = "float32"
    """How the items' vectors are kept."""
    index: IndexConfig = field(default_factory=IndexConfig)
    """How items are searched."""
    evaluate: bool = True
    """Where data.history.until names a split, measure the lists against it, beside popularity and Markov."""
    samples: int = 6
    """Requests that the report shows as examples."""

    def __post_init__(self) -> None:
        if self.data.interactions.judged:
            raise InputError("data.interactions.judged is for a pruner without candidates; leave it out here.")
        threads = 1 if self.threads is None else self.threads
        counts = {"candidates": self.candidates, "part": self.part, "workers": self.workers, "threads": threads}
        for name, count in counts.items():
            if count < 1:
                raise InputError(f"{name} is {count}; expected at least 1.")
        if self.lexical is not None and self.data.split.items is not None:
            raise InputError("lexical does not go with data.split.items: BM25 would list items of every split.")
        if self.data.history.until is not None and self.data.history.until not in STAGES:
            order_value(self.data.history.until)  # before anything is loaded
        if self.precision != "float32" and self.runtime != "torch":
            raise InputError(f"precision {self.precision} is for runtime torch, and runtime is {self.runtime}.")
        if self.samples < 0:
            raise InputError(f"samples is {self.samples}; expected 0 or more.")
        if self.shard is not None and self.workers > 1:
            raise InputError(f"workers is {self.workers} and shard {self.shard}; set one of them.")
        if self.shard is not None and self.overwrite:
            remedy = "remove it first, or let one process without a shard begin"
            raise InputError(
                f"overwrite with shard {self.shard} would remove the output of the other shards; {remedy}."
            )
        self.share()

    @property
    def folder(self) -> Path:
        """Of this run."""
        return Path(self.runs) / self.name

    @property
    def cores(self) -> int:
        """Threads of each process."""
        return self.threads or max(len(os.sched_getaffinity(0)) // self.workers, 1)

    def share(self) -> tuple[int, int]:
        """Which of how many shards, from 0 on."""
        found = re.fullmatch(r"(\d+)/(\d+)", self.shard or "1/1")
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"shard is {self.shard!r}; expected I/N with I from 1 to N, e.g. 1/8.")
        return int(found[1]) - 1, int(found[2])
