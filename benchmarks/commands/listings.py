"""``erecap suites`` and ``erecap backends``."""

from rich.table import Table

from benchmarks.backends.registry import backend_names
from benchmarks.output.console import result_console
from benchmarks.runs.suites import SUITES


def suites() -> None:
    """List the suites."""
    table = Table("suite", "episodes", "environments", "what it is", box=None)
    for suite in SUITES.values():
        table.add_row(suite.name, str(suite.episodes), "\n".join(suite.env_ids), suite.summary)
    result_console().print(table)


def backends() -> None:
    """List the names that a backend spec may start with. For a backend of your own, write my_package.module:factory."""
    for name in backend_names():
        result_console().print(name)
