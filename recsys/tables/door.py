"""Validation at the door: tell every fault, stop at errors, drop what the user said may be dropped, and then trust."""

import logging
import textwrap
from dataclasses import dataclass, field

from recsys.errors import InputError
from recsys.tables.config import TABLES, DataConfig
from recsys.tables.facts import Fact, UnknownShare, find_facts, strange_texts
from recsys.tables.faults import Fault, Inspection
from recsys.tables.formats import readable
from recsys.tables.inspection import inspect
from recsys.tables.policy import apply_policies
from recsys.tables.read import Tables, tables_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What is there and what is wrong with it."""

    faults: list[Fault]
    facts: list[Fact] = field(default_factory=list)

    @property
    def errors(self) -> list[Fault]:
        """The faults that stop a run."""
        return [fault for fault in self.faults if fault.severity == "error"]

    @property
    def warnings(self) -> list[Fault]:
        """The faults that the user accepts, and those that do no harm."""
        return [fault for fault in self.faults if fault.severity == "warning"]


def validate(config: DataConfig, unknown_share: UnknownShare | None = None, *, show_ids: bool = False) -> Report:
    """Look at a data set. Faults of the data are returned and never raised.

    Args:
        config: where the tables lie and what their columns are for.
        unknown_share: texts -> share of tokens that the tokenizer does not know; told for each text column if given.
        show_ids: whether user ids and query texts may stand in the report.
    """
    seen = inspect(config, show_ids)
    try:
        with readable("facts"):
            facts = find_facts(seen, unknown_share)
            return Report([*seen.faults, *strange_texts(facts)], facts)
    except InputError as error:  # a table that broke off; its fault is there already, or this is it
        return Report([*seen.faults, Fault(table="tables", kind="unreadable table", message=str(error))])


def check(config: DataConfig) -> Tables:
    """Read, validate and apply the policies: what comes out can be trusted.

    Raises:
        InputError: one line for each fault that is an error; or a policy drops every row of a table.
    """
    return admit(inspect(config))


def admit(seen: Inspection) -> Tables:
    """What `check` does once a data set is inspected."""
    report = Report(list(seen.faults))
    if report.errors:
        raise InputError("\n".join(fault.line() for fault in report.errors))
    for fault in report.warnings:
        _log.warning(fault.line())
    return tables_of(seen.config, apply_policies(seen))


def render(report: Report) -> str:
    """The report as text for a terminal."""
    return "\n".join(report_lines(report))


def report_lines(report: Report) -> list[str]:
    """The report, a line each: rows, coverage, ranges, interactions, then faults, errors first."""
    sections = {
        "Rows": _row_lines(report),
        "Share of rows that hold a value": _coverage_lines(report),
        "Lowest and highest": _column_lines(report, ("lowest", "highest")),
        "Splits and events": _named_lines(report, ("split ", "event ")),
        "Interactions": _named_lines(report, ("per user", "popularity")),
        "Tokens that the text model does not know": _column_lines(report, ("unknown tokens",)),
        _verdict(report): _fault_lines(report),
    }
    return [line for title, lines in sections.items() if lines for line in (title, *lines, "")][:-1]


def _row_lines(report: Report) -> list[str]:
    rows = {fact.table: fact.text for fact in report.facts if fact.name == "rows"}
    return [f"  {table:<14}{rows.get(table, 'none'):>14}" for table in TABLES] if rows else []


def _coverage_lines(report: Report) -> list[str]:
    covered = [fact for fact in report.facts if fact.name == "coverage"]
    lines: list[str] = []
    for table in dict.fromkeys(fact.table for fact in covered):
        text = ", ".join(f"{fact.column}\N{NO-BREAK SPACE}{fact.text}" for fact in covered if fact.table == table)
        start = f"  {table:<14}"
        wrapped = textwrap.wrap(text, 100, initial_indent=start, subsequent_indent=" " * len(start))
        lines += [line.replace("\N{NO-BREAK SPACE}", " ") for line in wrapped]
    return lines


def _column_lines(report: Report, names: tuple[str, ...]) -> list[str]:
    told: dict[str, str] = {}
    for fact in (fact for fact in report.facts if fact.name in names):
        place = f"{fact.table}.{fact.column}"
        told[place] = f"{told[place]} to {fact.text}" if place in told else fact.text
    return _aligned(told)


def _named_lines(report: Report, starts: tuple[str, ...]) -> list[str]:
    named = [fact for fact in report.facts if fact.name.startswith(starts)]
    return _aligned({f"{fact.table}.{fact.column} {fact.name}": fact.text for fact in named})


def _aligned(told: dict[str, str]) -> list[str]:
    width = max(map(len, told), default=0)
    return [f"  {name:<{width}}  {value:>14}" for name, value in told.items()]


def _verdict(report: Report) -> str:
    def many(count: int, word: str) -> str:
        return f"{count} {word}{'s' * (count != 1)}"

    return f"Faults: {many(len(report.errors), 'error')}, {many(len(report.warnings), 'warning')}"


def _fault_lines(report: Report) -> list[str]:
    if not report.faults:
        return ["  none"]
    lines = [f"  {fault.severity:<9}{fault.line()}" for fault in (*report.errors, *report.warnings)]
    numbered = any(fault.rows for fault in report.faults)
    return [*lines, "  Rows are counted from 0: row 0 is the second line of a CSV file."] if numbered else lines
