"""`recsys demo`: make a shop, validate, train, propose, prune, recommend, report. The same commands as a user's own."""

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from recsys.errors import InputError, nearest
from recsys.results import read_results
from recsys.shards import write_atomic

Main = Callable[[list[str]], int]
"""The command line."""

CONFIGS = Path("configs")
HELP = """recsys demo [--size=N] [--seed=N] [--folder=DIR]

Makes a shop of N items (1000) and walks the whole journey on it: validate, train a retriever, propose candidates, train
a pruner, recommend, search, report. Everything lies below DIR/shop and DIR/shop_pruner (DIR: runs).
"""


def run_demo(arguments: list[str], main: Main) -> int:
    """Run the journey below --folder, command by command, each by `main`; returns the first exit code that is not 0."""
    if set(arguments) & {"-h", "--help"}:
        print(HELP, end="")
        return 0
    options = _options(arguments)
    folder = Path(options["folder"])
    if not (CONFIGS / "retriever" / "shop.yaml").is_file():
        raise InputError(f"{CONFIGS}/retriever/shop.yaml is not here; run the demo from the project's folder.")
    begin = time.perf_counter()
    _make_shop(folder / "shop" / "data", _whole(options["size"], "size"), _whole(options["seed"], "seed"))
    done = folder / "shop" / "demo.txt"
    if done.is_file():
        print(f"The demo was run before; remove {folder / 'shop'} to run it again.")
        _say_results(folder / "shop")
    else:
        for command in _journey(folder):
            code = _say_and_run(main, command)
            if code:
                return code
        write_atomic(done, f"size {options['size']}, seed {options['seed']}\n")
        print(f"\nDemo finished in {time.perf_counter() - begin:.0f} s.")
    print(f"recommendations  {folder / 'shop' / 'recommendations'}\nsearch results   {folder / 'shop' / 'results'}")
    print(f"report           {folder / 'shop' / 'report.html'}")
    return 0


def _options(arguments: list[str]) -> dict[str, str]:
    options = {"size": "1000", "seed": "0", "folder": "runs"}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        if name not in options or not value:
            hint = nearest(name, options)
            raise InputError(f"Unknown option {argument!r}.{hint} Expected --size=N, --seed=N or --folder=DIR.")
        options[name] = value
    return options


def _whole(value: str, name: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InputError(f"--{name}={value!r} is no whole number.") from None


def _make_shop(folder: Path, size: int, seed: int) -> None:
    from recsys.data.sources.shop import write_shop

    made_from, mark = f"size {size}, seed {seed}", folder.parent / "data.txt"
    if not folder.is_dir():
        write_atomic(mark, made_from)
        write_shop(folder, size=size, seed=seed)
    elif not mark.is_file() or mark.read_text() != made_from:
        remedy = f"remove {folder.parent} or give another --folder"
        raise InputError(f"{folder} holds another shop than {made_from}; {remedy}.")


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


def _say_results(run: Path) -> None:
    from recsys.reports.page import print_results

    print(print_results(read_results(run)))


def _say_and_run(main: Main, command: list[str]) -> int:
    print(f"\n$ recsys {shlex.join(command)}", flush=True)
    code = main(command)
    sys.stdout.flush()
    return code
