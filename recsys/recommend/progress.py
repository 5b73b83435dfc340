"""One bar for all parts, whoever makes them: how many, how fast, how long still, and what the time goes into."""

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def bar(title: str, total: int) -> Generator[Callable[[Mapping[str, float]], None]]:
    """Gives what is called after each part, with the seconds of its stages by name. Silent where nobody watches."""
    columns = (BarColumn(), MofNCompleteColumn(), TaskProgressColumn(show_speed=True), TimeElapsedColumn())
    shares, spent = TextColumn("{task.fields[shares]}"), dict[str, float]()
    watched = sys.stderr.isatty()
    with Progress(TextColumn(title), *columns, TimeRemainingColumn(), shares, disable=not watched) as made:
        task = made.add_task(title, total=total, shares="")

        def advance(seconds: Mapping[str, float]) -> None:
            for name, value in seconds.items():
                spent[name] = spent.get(name, 0.0) + value
            made.update(task, advance=1, shares=stage_shares(spent))

        yield advance


def stage_shares(seconds: Mapping[str, float]) -> str:
    """Each stage's share of the time: "retrieve 12 % - score 86 % - decide 2 %"."""
    total = sum(seconds.values())
    return " - ".join(f"{name} {100 * value / total:.0f} %" for name, value in seconds.items() if value)
