"""`recsys demo`: make a shop, validate, train, propose, prune, recommend, report. The same commands as a user's own."""

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from recsys.errors import InputError, nearest
from recsys.results import add_stage, read_results
from recsys.shards import write_atomic

Main = Callable[[list[str]], int]
"""The command line."""

CONFIGS = Path("configs")
ORACLES = ("oracle, sources at hand", "oracle")
"""Rows of the shop's oracle.parquet that stand beside the models."""
HELP = """recsys demo [--size=N] [--seed=N] [--language=en|zh] [--folder=DIR]

Makes a shop of N items (1000) and walks the whole journey on it: validate, train a retriever, propose candidates, train
a pruner, recommend, search, compare with the shop's oracle, report. Everything lies below DIR/shop and DIR/shop_pruner
(DIR: runs, or runs/zh for the Chinese shop).
"""


def run_demo(arguments: list[str], main: Main) -> int:
    """Run the journey below --folder, command by command, each by `main`; returns the first exit code that is not 0."""
    if set(arguments) & {"-h", "--help"}:
        print(HELP, end="")
        return 0
    options = _options(arguments)
    folder = Path(options["folder"] or ("runs" if options["language"] == "en" else f"runs/{options['language']}"))
    if not (CONFIGS / "retriever" / "shop.yaml").is_file():
        raise InputError(f"{CONFIGS}/retriever/shop.yaml is not here; run the demo from the project's folder.")
    begin = time.perf_counter()
    made_from = _make_shop(folder / "shop" / "data", options)
    done = folder / "shop" / "demo.txt"
    if done.is_file():
        print(f"The demo was run before; remove {folder / 'shop'} to run it again.")
    else:
        for command in _journey(folder):
            if command[0] == "report":
                _add_oracles(folder)
            code = _say_and_run(main, command)
            if code:
                return code
        write_atomic(done, f"{made_from}\n")
        print(f"\nDemo finished in {time.perf_counter() - begin:.0f} s.")
    _say_results(folder / "shop")
    print(f"recommendations  {folder / 'shop' / 'recommendations'}\nsearch results   {folder / 'shop' / 'results'}")
    print(f"report           {folder / 'shop' / 'report.html'}")
    return 0


def _options(arguments: list[str]) -> dict[str, str]:
    options = {"size": "1000", "seed": "0", "language": "en", "folder": ""}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        if name not in options or not value:
            hint = nearest(name, options)
            known = "--size=N, --seed=N, --language=en|zh or --folder=DIR"
            raise InputError(f"Unknown option {argument!r}.{hint} Expected {known}.")
        options[name] = value
    return options


def _whole(value: str, name: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InputError(f"--{name}={value!r} is no whole number.") from None


def _make_shop(folder: Path, options: dict[str, str]) -> str:
    """The shop in `folder`, made if it is not there; returns what it was made from."""
    from recsys.data.sources.shop import SHOP, write_shop

    size, seed, language = _whole(options["size"], "size"), _whole(options["seed"], "seed"), options["language"]
    made_from = f"shop {SHOP}, size {size}, seed {seed}, language {language}"
    mark = folder.parent / "data.txt"
    if not folder.is_dir():
        write_atomic(mark, made_from)
        write_shop(folder, size=size, seed=seed, language=language)
    elif not mark.is_file() or mark.read_text() != made_from:
        remedy = f"remove {folder.parent} or give another --folder"
        raise InputError(f"{folder} holds another shop than {made_from}; {remedy}.")
    return made_from


def _journey(folder: Path) -> list[list[str]]:
    data = [f"--data.root={folder}/shop/data", f"--data.cache={folder}/shop/cache"]
    place = [*data, f"--runs={folder}"]
    models = [f"--retriever={folder}/shop", f"--pruner={folder}/shop_pruner", "--overwrite=true"]
    proposed = [f"--candidates={folder}/shop/candidates", f"--model.text.model={folder}/shop/model/text"]
    return [
        ["validate", f"{CONFIGS}/retriever/shop.yaml", *data],
        ["train", f"{CONFIGS}/retriever/shop.yaml", *place, "--overwrite=true"],
        ["infer", "candidates", f"{CONFIGS}/infer/shop.yaml", *place, f"--retriever={folder}/shop", "--overwrite=true"],
        ["train", f"{CONFIGS}/pruner/shop.yaml", *place, *proposed, "--overwrite=true"],
        ["infer", "recommend", f"{CONFIGS}/infer/shop.yaml", *place, *models],
        ["infer", "search", f"{CONFIGS}/infer/shop.yaml", *place, *models],
        ["report", f"{folder}/shop"],
    ]  # fmt: skip


def _add_oracles(folder: Path) -> None:
    """The shop's oracles beside the models in results.json: the same purchases, measured by the same rules."""
    import polars as pl
    import torch

    from recsys.config import read_part
    from recsys.data.prepare import prepare
    from recsys.metrics.accumulate import RankingMetrics
    from recsys.metrics.long_tail import popularity_segments
    from recsys.tables import DataConfig

    places = [f"--data.root={folder}/shop/data", f"--data.cache={folder}/shop/cache"]
    config = read_part(CONFIGS / "infer" / "shop.yaml", "data", DataConfig, places)
    assert config is not None
    data = prepare(config)
    popularity = torch.from_numpy(data.popularity())
    table = pl.read_parquet(folder / "shop" / "data" / "oracle.parquet")
    rows = data.tables.items.select(config.items.id).with_row_index("row")
    for name in ORACLES:
        one = table.filter(oracle=name).join(rows, left_on="item_id", right_on=config.items.id)
        ranks, items = (one[column].cast(pl.Int64).to_torch()[:, None] for column in ("rank", "row"))
        metrics = RankingMetrics(segments=popularity_segments(popularity), popularity=popularity)
        metrics.update(ranks, items, torch.full((len(one), metrics.list_k), -1))
        add_stage(folder / "shop", name, metrics.compute())


def _say_results(run: Path) -> None:
    from recsys.reports.page import print_results

    print(print_results(read_results(run)))


def _say_and_run(main: Main, command: list[str]) -> int:
    print(f"\n$ recsys {shlex.join(command)}", flush=True)
    code = main(command)
    sys.stdout.flush()
    return code
