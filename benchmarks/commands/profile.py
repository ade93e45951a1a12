"""``erecap profile``."""

import typer


def profile(context: typer.Context) -> None:
    """Measure the engine on this machine: prefill, decode, memory, rates, a trace. `erecap profile --help` lists what there is."""
    from benchmarks.commands.profile_frontend import run_profile  # takes seconds: imports torch

    raise typer.Exit(run_profile(context.args or ["--help"]))
