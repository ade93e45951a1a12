"""The subcommands of ``erecap``: one file each, and one line here.

Commands import modules that need torch inside their functions, so that ``erecap --help`` and runs of the expert start fast.
"""

from collections.abc import Callable
from typing import Any

import typer

from benchmarks.commands.ablate import ablate
from benchmarks.commands.bench_prefill import bench_prefill
from benchmarks.commands.calibrate import calibrate
from benchmarks.commands.compare import compare
from benchmarks.commands.listings import backends, suites
from benchmarks.commands.run import run
from benchmarks.commands.saliency import saliency
from benchmarks.commands.train_planner import train_planner_command
from benchmarks.commands.train_pruner import train_pruner_command

COMMANDS: dict[str, Callable[..., Any] | typer.Typer] = {
    "run": run,
    "compare": compare,
    "ablate": ablate,
    "bench-prefill": bench_prefill,
    "calibrate": calibrate,
    "suites": suites,
    "backends": backends,
    "train-planner": train_planner_command,
    "saliency": saliency,
    "train-pruner": train_pruner_command,
}
