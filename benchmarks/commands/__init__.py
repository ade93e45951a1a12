"""The subcommands of ``erecap``: one file each, and one line here."""

from collections.abc import Callable
from typing import Any

from benchmarks.commands.compare import compare
from benchmarks.commands.listings import backends, suites
from benchmarks.commands.run import run

COMMANDS: dict[str, Callable[..., Any]] = {
    "run": run,
    "compare": compare,
    "suites": suites,
    "backends": backends,
}
