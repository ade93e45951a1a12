"""``erecap suites`` and ``erecap backends``."""

from rich.table import Table

from benchmarks.backends.descriptions import INFO, OWN
from benchmarks.output.console import result_console
from benchmarks.runs.suites import SUITES
from planner import Horizon

_REACH: dict[Horizon, str] = {"subgoal": "one subgoal", "task": "the task"}


def suites() -> None:
    """List the suites: how many episodes each has, in which environments, how far plans reach, and what it is."""
    table = _table("suite", "episodes", "environments", "plans for", "what it is")
    for suite in SUITES.values():
        table.add_row(suite.name, str(suite.episodes), "\n".join(suite.env_ids), _REACH[suite.horizon], suite.summary)
    console = result_console()
    console.print(table)
    console.print(
        "\nPlay one: erecap run --suite smoke --backend expert. Or one environment: erecap run --env ERecap/HouseholdSmall-v0"
    )


def backends() -> None:
    """List the backends: what each is, its options, and an example."""
    console = result_console()
    table = _table("backend", "what it is", "example")
    for name, info in INFO.items():
        table.add_row(name, info.summary, info.example)
    table.add_row("MODULE:NAME", OWN.summary, OWN.example)
    console.print(table)
    console.print("\nOptions follow a question mark and are joined by &. Quote the whole: --backend 'erecap?keep=0.7&seed=1'\n")
    console.print(_options_table())


def _options_table() -> Table:
    """Make the table of all options, each with the backends that take it."""
    takers: dict[tuple[str, str], list[str]] = {}
    for name, info in INFO.items():
        for option, meaning in info.options.items():
            takers.setdefault((option, meaning), []).append(name)
    table = _table("option", "what it means", "of")
    for (option, meaning), names in takers.items():
        table.add_row(option, meaning, ", ".join(names))
    return table


def _table(*headers: str) -> Table:
    """Make a table that breaks long words instead of cutting them: what it shows is typed again by its readers."""
    table = Table(box=None)
    for header in headers:
        table.add_column(header, overflow="fold")
    return table
