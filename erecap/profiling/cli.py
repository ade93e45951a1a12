"""The command line of the measurements: each prints a table and writes a JSON file.

``python -m erecap.profiling`` runs it as it is. ``erecap profile`` adds a progress bar, plots and subcommands (``Frontend``).
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from erecap.models.device import resolve_device
from erecap.models.host_memory import available_bytes, is_measurable
from erecap.profiling import (
    batch_profile,
    comm_profile,
    generate_profile,
    memory_profile,
    predict_profile,
    prefill_point,
    rates_profile,
    session_profile,
)
from erecap.profiling import trace_profile as trace
from erecap.profiling.batch_profile import BatchPlan, profile_batches
from erecap.profiling.device_measurements import DEVICE_MEASUREMENTS, remarks, run_on_devices, side_tables, stated_rows
from erecap.profiling.doctor import run_checks
from erecap.profiling.doctor.report import format_findings
from erecap.profiling.environment import command_line, machine_facts
from erecap.profiling.frontend import Frontend
from erecap.profiling.generate_profile import DECODERS, GeneratePlan, profile_generate
from erecap.profiling.measurement import Measurement, make_variant
from erecap.profiling.memory_child import measure_in_child
from erecap.profiling.memory_profile import Measure, MemoryPlan, measure_on_gpu, profile_memory
from erecap.profiling.options import make_parser
from erecap.profiling.prefill_profile import PrefillPlan, profile_prefill
from erecap.profiling.rates_profile import BACKENDS, attention_rates, copy_rate, matrix_rate
from erecap.profiling.replan_trace import ReplanTrace, bundled_trace
from erecap.profiling.results import ResultFile, Row, check_writable, read_result
from erecap.profiling.session_profile import SessionPlan, profile_sessions
from erecap.profiling.spread import taking_part
from erecap.profiling.table import format_table
from erecap.sessions.session import MOST_DRAFTED


def main(arguments: Sequence[str] | None = None, frontend: Frontend | None = None) -> int:
    """Run the measurement that ``arguments`` name.

    Parameters
    ----------
    arguments
        Words of the command line; those of the process by default.
    frontend
        The command line; the bare module's by default.

    Returns
    -------
    int
        Exit code: 0; 1 after a user error, or an error that ``env`` found; 130 after Ctrl-C.
    """
    frontend, words = frontend or Frontend(), list(sys.argv[1:] if arguments is None else arguments)
    disable_progress_bar()  # type: ignore[no-untyped-call]  # of transformers, while weights are read
    try:
        if words and words[0] in frontend.subcommands:
            return frontend.subcommands[words[0]].run(words[1:])
        args = make_parser(frontend).parse_args(words)
        with taking_part(args.command):
            if args.command == "show":
                return _show(args.files)
            if args.command == "env":
                return _env(args, frontend, words)
            make = DEVICE_MEASUREMENTS.get(args.command, Measurement)
            return _measure(make(args, frontend, tuple(words)))
    except KeyboardInterrupt:
        return 130
    except ValueError as error:
        frontend.progress.close()
        sys.stderr.write(f"error: {error}\n")
        return 1
    finally:
        frontend.progress.close()


def _measure(run: Measurement) -> int:
    """Measure, print the table and draw the plot; after Ctrl-C with what there is. Of several processes the first one prints."""
    if not run.writes:
        with run.conditions():
            COMMANDS[run.args.command](run)
        return 0
    check_writable(run.out)
    try:
        with run.conditions():
            COMMANDS[run.args.command](run)
        run.finish()
        stopped = 0
    except KeyboardInterrupt:
        stopped = 130
        if not run.file.points:
            sys.stderr.write("stopped before anything was measured\n")
            return stopped
        run.file.save()
    run.frontend.progress.close()
    print_result(run.file.content)
    sys.stdout.write(f"written: {run.out}\n")
    plot = run.frontend.plot(run.file.content, run.out)
    sys.stdout.write(f"drawn: {plot}\n" if plot is not None else "")
    if stopped:
        sys.stderr.write(f"stopped; what was measured is in {run.out}\n")
    return stopped


def _prefill(run: Measurement) -> None:
    lengths, rate = run.lengths(), matrix_rate(run.device, run.dtype)
    run.file.note(rates=rate)
    plan = PrefillPlan(
        lengths,
        run.args.rounds,
        run.args.seconds,
        count=not run.args.no_count and run.placement.whole,
        new_rounds=run.args.new_lengths,
        stock=not run.args.no_stock,
    )
    profile_prefill(run.model, run.variants, plan, rate["matmul_flops_per_s"] * run.placement.ranks, run.file)


def _generate(run: Measurement) -> None:
    unknown = [name for name in run.args.decoders if name not in DECODERS]
    if unknown:
        raise ValueError(f"decoders {', '.join(unknown)} are not known: use {', '.join(DECODERS)}")
    if not run.placement.whole and set(run.args.decoders) != {"eager"}:
        raise ValueError(f"decoders {', '.join(run.args.decoders)} of a model on several devices: only eager runs there")
    lengths, rate = run.lengths(run.args.new_tokens), copy_rate(run.device)
    run.file.note(rates=rate)
    plan = GeneratePlan(
        lengths, run.args.new_tokens, run.args.rounds, run.args.decoders, run.args.seconds, run.device.type == "cuda"
    )
    profile_generate(run.model, run.variants, plan, rate["copy_bytes_per_s"], run.file)


def _batch(run: Measurement) -> None:
    args = run.args
    plan = BatchPlan(run.lengths(args.new_tokens), args.batch_sizes, args.new_tokens, args.rounds, args.seconds)
    profile_batches(run.model, run.variants, plan, run.file)


def _memory(run: Measurement) -> None:
    limit = int(run.args.limit_gib * 2**30) if run.args.limit_gib else None
    run.file.note(limit_bytes=limit)
    measure, most = _memory_on_gpu(run, limit) if run.device.type == "cuda" else _memory_on_cpu(run, limit)
    plan = MemoryPlan(sorted(run.lengths()), run.schedules, run.args.seconds, most)
    profile_memory(run.config, run.dtype, measure, plan, run.file)


def _memory_on_gpu(run: Measurement, limit: int | None) -> tuple[Measure, int | None]:
    """Return the function that measures, and no limit for the formula: torch keeps the limit itself and survives it."""
    if limit:
        total = torch.cuda.get_device_properties(run.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), run.device)
    return partial(measure_on_gpu, run.model, run.variants), None


def _memory_on_cpu(run: Measurement, limit: int | None) -> tuple[Measure, int | None]:
    """Return the function that measures, and the limit for the formula: a CPU's system would end other processes too."""
    if not is_measurable():
        raise ValueError("the peak of the resident set can be read and set back on Linux only: use a GPU, or Linux")

    def measure(length: int, keep: float, seconds: float) -> Row:
        make = partial(make_variant, run.args, keep)
        return measure_in_child(make, length, torch.get_num_threads(), limit, seconds, run.frontend.preload)

    free = available_bytes()
    return measure, min((value for value in (limit, free) if value is not None), default=None)


def _sessions(run: Measurement) -> None:
    trace = ReplanTrace.load(run.args.trace or bundled_trace())
    run.file.note(trace=trace.source)
    lengths = run.lengths(max(len(replan.answer) for replan in trace.replans) + MOST_DRAFTED)
    schedules: dict[str, session_profile.Pruning] = {}
    for keep in run.schedules:
        if keep != 1:
            schedule, selector = run.variant(keep)
            schedules[f"erecap-session?keep={keep:g}"] = (schedule.by_rule("chunk_top_k"), selector)
    plan = SessionPlan(lengths, run.args.replans, run.args.rounds, run.args.seconds)
    profile_sessions(run.model, schedules, trace, plan, run.file)


def _trace(run: Measurement) -> None:
    lengths = run.lengths()
    run.file.expect(len(lengths) * len(run.schedules))
    for length in lengths:
        trace.profile_trace(run.model, run.variants, length, run.file)


def _rates(run: Measurement) -> None:
    lengths = run.lengths()
    run.file.expect(2 + len(BACKENDS) * len(lengths))
    run.file.add(matrix_rate(run.device, run.dtype))
    run.file.add(copy_rate(run.device))
    for row in attention_rates(run.config, run.device, run.dtype, lengths):
        run.file.add(row)


def _env(args: argparse.Namespace, frontend: Frontend, words: Sequence[str]) -> int:
    """Check the machine; return 1 where a check found an error."""
    device = resolve_device(args.device)
    if args.out is not None:
        check_writable(args.out)
    checks = [*run_checks(device), *(finding for check in frontend.checks for finding in check())]
    file = ResultFile(args.out, kind="env", command=command_line(frontend.prog, words), machine=machine_facts(device))
    file.points.extend(asdict(check) for check in checks)
    file.finish()
    if args.json:
        sys.stdout.write(json.dumps(file.content, indent=1) + "\n")
    else:
        print_result(file.content)
    return int(any(check.status == "error" for check in checks))


def _show(files: Sequence[Path]) -> int:
    for file in files:
        print_result(read_result(file))
    return 0


def print_result(content: Row) -> None:
    """Print the table of a result file."""
    rows = summary(content)
    text = format_findings(rows) if content["kind"] == "env" else format_table(rows)
    for table in side_tables(content):
        sys.stdout.write(f"\n{table.title}\n{format_table(table.rows)}\n")
    sys.stdout.write(f"\n{title(content)}\n{text}\n" + "".join(f"{line}\n" for line in remarks(content)))
    sys.stdout.flush()


def title(content: Row) -> str:
    """Return the line above the table of a result file: what was measured, and where."""
    model = content.get("model")
    what = f"{content['kind']}: {model['model_id']}, {model['dtype']}, {model['attention']}" if model else content["kind"]
    return f"{what} on {content['machine']['device_name']}{'' if content.get('complete', True) else ' (stopped before its end)'}"


def summary(content: Row) -> list[Row]:
    """Return the rows of the table of a result file.

    Raises
    ------
    ValueError
        For a kind of measurement that is not known.
    """
    if content["kind"] not in SUMMARIES:
        raise ValueError(f"measurement {content['kind']!r} is not known: this erecap shows {', '.join(SUMMARIES)}")
    return SUMMARIES[content["kind"]](content)


SUMMARIES: dict[str, Callable[[Row], list[Row]]] = {
    "prefill": lambda content: prefill_point.summary_rows(content["points"]),
    "generate": lambda content: generate_profile.summary_rows(content["points"]),
    "batch": lambda content: batch_profile.summary_rows(content["points"]),
    "memory": lambda content: memory_profile.summary_rows(content["points"]),
    "trace": lambda content: trace.summary_rows(content["points"]),
    "sessions": lambda content: session_profile.summary_rows(content["points"]),
    "rates": lambda content: rates_profile.summary_rows(content["points"]),
    "comm": lambda content: comm_profile.summary_rows(content["points"]),
    "predict": lambda content: predict_profile.summary_rows(content["points"]),
    "stated": lambda content: stated_rows(content["points"]),
    "env": lambda content: content["points"],
}
"""By measurement, the function that makes the rows of the table from the content of the result file."""


COMMANDS: dict[str, Callable[[Measurement], None]] = {
    "prefill": _prefill,
    "generate": _generate,
    "batch": _batch,
    "memory": _memory,
    "trace": _trace,
    "sessions": _sessions,
    "rates": _rates,
    "comm": run_on_devices,
    "predict": run_on_devices,
}
"""Measurements by name."""
