"""Nouns at rest: tables, the roles that their columns play, and validation at the door.

From the outside inwards: `config` names the columns' roles, `formats` opens a file, `read` makes tables of a folder,
`faults` finds what is wrong, `facts` what is there, `door` says so and applies the policies.
"""

from recsys.tables.config import (
    POPULARITY,
    TABLES,
    AdsConfig,
    DataConfig,
    HistoryConfig,
    InteractionsConfig,
    ItemsConfig,
    Policy,
    PolicyConfig,
    QueriesConfig,
    RelevanceConfig,
    ReviewsConfig,
    SplitConfig,
    UsersConfig,
)
from recsys.tables.door import Report, check, render, report_lines, validate
from recsys.tables.facts import Fact
from recsys.tables.faults import Fault
from recsys.tables.read import Tables, read_tables

__all__ = [
    "POPULARITY",
    "TABLES",
    "AdsConfig",
    "DataConfig",
    "Fact",
    "Fault",
    "HistoryConfig",
    "InteractionsConfig",
    "ItemsConfig",
    "Policy",
    "PolicyConfig",
    "QueriesConfig",
    "RelevanceConfig",
    "Report",
    "ReviewsConfig",
    "SplitConfig",
    "Tables",
    "UsersConfig",
    "check",
    "read_tables",
    "render",
    "report_lines",
    "validate",
]
