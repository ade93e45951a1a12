"""The subcommands of ``erecap``: one file each, and one line here.

Commands import modules that need torch inside their functions, so that ``erecap --help`` and runs of the expert start fast.
"""

from collections.abc import Callable
from typing import Any

import typer

from benchmarks.commands.ablate import ablate
from benchmarks.commands.bench_quality import bench_quality
from benchmarks.commands.bench_replans import bench_replans
from benchmarks.commands.calibrate import calibrate
from benchmarks.commands.capacity import capacity
from benchmarks.commands.compare import compare
from benchmarks.commands.doctor import doctor
from benchmarks.commands.listings import backends, suites
from benchmarks.commands.profile import profile
from benchmarks.commands.results_page import results as results_command
from benchmarks.commands.run import run
from benchmarks.commands.saliency import saliency
from benchmarks.commands.stages import stages
from benchmarks.commands.trace_replans import trace_replans
from benchmarks.commands.train_draft_head import train_draft_head_command
from benchmarks.commands.train_planner import train_planner_command
from benchmarks.commands.train_pruner import train_pruner_command

COMMANDS: dict[str, Callable[..., Any] | typer.Typer] = {
    "run": run,
    "compare": compare,
    "ablate": ablate,
    "results": results_command,
    "capacity": capacity,
    "profile": profile,
    "doctor": doctor,
    "calibrate": calibrate,
    "suites": suites,
    "backends": backends,
    "train-planner": train_planner_command,
    "saliency": saliency,
    "train-pruner": train_pruner_command,
    "train-draft-head": train_draft_head_command,
    "stages": stages,
    "bench-quality": bench_quality,
    "bench-replans": bench_replans,
    "trace-replans": trace_replans,
}

SETTINGS: dict[str, dict[str, Any]] = {
    "profile": {
        "add_help_option": False,
        "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
    },
}
"""Settings of subcommands in typer. ``profile`` hands all its words, ``--help`` among them, to the parser of the measurements."""
