"""``erecap doctor``."""

import gc
from pathlib import Path
from typing import Annotated

import typer


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    device: Annotated[str | None, typer.Option(help="A torch device; the GPU by default where there is one.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the findings to this file.")] = None,
) -> None:
    """Check this machine: versions, processor, GPUs, memory, disk, Java, and whether the bundled planner plans.

    Each finding is ok, a warning or an error, with what to do about it. Exits with 1 on an error. The same as `erecap profile env`.
    """
    gc.disable()  # importing torch and transformers makes objects that stay; looking for garbage in between takes 2 s of 11
    from benchmarks.commands.profile_frontend import run_profile  # takes seconds: imports torch

    words = ["env", *(["--json"] if json else []), *(["--device", device] if device else []), *(["--out", str(out)] if out else [])]
    raise typer.Exit(run_profile(words))
