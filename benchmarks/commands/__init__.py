"""The subcommands of ``erecap``. Each has a file, and a line in ``COMMANDS``."""

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
from benchmarks.commands.train_planner import train_planner
from benchmarks.commands.train_pruner import train_pruner

COMMANDS: dict[str, Callable[..., Any] | typer.Typer] = {
    "run": run,
    "compare": compare,
    "ablate": ablate,
    "bench-prefill": bench_prefill,
    "calibrate": calibrate,
    "suites": suites,
    "backends": backends,
    "train-planner": train_planner,
    "saliency": saliency,
    "train-pruner": train_pruner,
}
