"""The work of ``erecap bench-replans``: measure, write the report, print it. This module imports torch."""

import json
from dataclasses import asdict
from pathlib import Path

import typer

from agents.recorded_prompts import by_episode
from benchmarks.backends.registry import BackendFactory, choose_reference, parse_specs
from benchmarks.comparison.fidelity import fidelities
from benchmarks.output.console import plain_console, result_console
from benchmarks.output.files import write_atomically
from benchmarks.output.lock import OutputLock
from benchmarks.recipes.replans import measure_replans
from benchmarks.reports.fidelity import markdown, rich_table
from benchmarks.runs.closed_loop import STEPS_FILE
from benchmarks.runs.progress import StageProgress
from benchmarks.runs.records import RunRecords
from erecap.backend import LocalBackend

ROWS_FILE, RESULT_FILE, TABLE_FILE = "replans.jsonl", "replans.json", "replans.md"


def run_study(data: Path, backends: str, episodes: int, max_new_tokens: int, out: Path) -> None:
    """Measure, write the results into ``out`` and print them. A stopped run keeps its whole episodes.

    Raises
    ------
    ValueError
        For a run without episodes, and for backends without a model in this process.
    """
    records = RunRecords.read(data / STEPS_FILE)
    if not records.backends:
        raise ValueError(f"{data} holds no finished episode: give a run directory, made with `erecap run`")
    recorder = choose_reference(list(records.backends))
    prompts = [prompt for episode in by_episode(records.prompts(recorder))[:episodes] for prompt in episode]
    made = {spec: _local(spec) for spec in parse_specs(backends)}
    with OutputLock(out), StageProgress(plain_console(stderr=True)) as progress:
        progress.begin("replans", len(prompts))
        calls = records.backends[recorder].calls
        rows = measure_replans(prompts, calls, made, max_new_tokens, out / ROWS_FILE, progress.advance)
    if not rows:
        raise ValueError(f"{data} holds no whole plan: record other episodes")
    found = fidelities(rows, list(made))
    facts = {"data": data.resolve().name, "recorder": recorder, "backends": list(made), "rows": [asdict(one) for one in found]}
    write_atomically(out / RESULT_FILE, json.dumps(facts, indent=2) + "\n")
    write_atomically(out / TABLE_FILE, markdown(found))
    result_console().print(rich_table(found))
    typer.echo(json.dumps({"replans": str(out / RESULT_FILE), "table": str(out / TABLE_FILE), **facts}))


def _local(spec: str) -> LocalBackend:
    backend = BackendFactory()(spec)
    if not isinstance(backend, LocalBackend):
        raise ValueError(f"backend {spec!r} runs no model in this process, so its plans have no loss: leave it out")
    return backend
