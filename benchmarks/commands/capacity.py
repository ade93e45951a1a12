"""``erecap capacity``."""

from pathlib import Path
from typing import Annotated, Any

import typer

_STEADY, _RECORDED = "The agents: all at one length of context", "The agents: as recorded"
_DEFAULTS: dict[str, Any] = {"context": 8192, "new": 160, "answer": 60, "passes": 3, "every": 5.0}


def capacity(
    cost: Annotated[
        str,
        typer.Option(
            help="Cost model: planner-cpu, qwen2-7b-h200, qwen2-7b-h200-graph (decode captured as a CUDA graph), or a file of "
            "`erecap calibrate --cost` or `erecap profile predict --cost-out`."
        ),
    ] = "qwen2-7b-h200-graph",
    shape: Annotated[
        str | None, typer.Option(help="Published architecture of the cost model's planner; by default read from the cost model.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The same as a model directory or hub id.")] = None,
    kv_budget: Annotated[str, typer.Option(help="Memory for the keys and values of all agents, such as 40GB or 512MiB.")] = "40GB",
    p95: Annotated[float, typer.Option(help="Limit of the 95th percentile of replan latency, in seconds.")] = 1.0,
    keep: Annotated[
        str | None, typer.Option(help="Keep ratios of erecap-session, separated by commas; 0.7,0.5 by default, none with --run.")
    ] = None,
    stages: Annotated[
        str | None, typer.Option(help="Layers after which tokens are dropped, such as 0-5; the seed's by default.")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of a prompt. [default: 8192]", rich_help_panel=_STEADY)] = None,
    new: Annotated[
        int | None, typer.Option(help="Tokens of a prompt that came since the last one. [default: 160]", rich_help_panel=_STEADY)
    ] = None,
    answer: Annotated[int | None, typer.Option(help="Tokens of an answer. [default: 60]", rich_help_panel=_STEADY)] = None,
    passes: Annotated[
        int | None,
        typer.Option(
            help="Forward passes of an answer with drafts; as many as its tokens without. [default: 3]", rich_help_panel=_STEADY
        ),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(help="Seconds for which an agent acts before it asks again. [default: 5]", rich_help_panel=_STEADY),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Run directory (`erecap run` or `compare`): the agents' work is that of its episodes, each backend's own. Token "
            "counts are those of the planner that played.",
            rich_help_panel=_RECORDED,
        ),
    ] = None,
    skill_seconds: Annotated[
        float | None,
        typer.Option(help="Seconds that a line of a plan takes. [default: 2]", rich_help_panel=_RECORDED),
    ] = None,
    protected: Annotated[
        int, typer.Option(help="Tokens of a prompt, beside the new ones, that all layers hold: system text, task, plan.")
    ] = 352,
    batch: Annotated[int, typer.Option(help="Most waiting prompts that are answered together; 1 answers them one by one.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Directory for capacity.json, capacity.md and capacity.png.")] = None,
) -> None:
    """Model how many agents one server can plan for: within a KV budget, and within a limit of replan latency.

    Nothing is measured: sessions are priced by a cost model, and a simulation of the
    server gives the latencies. Unpruned prefix reuse (baseline-session) is compared with
    pruned sessions (erecap-session). Agents whose session was evicted have it rebuilt.

    The last line of stdout is one JSON object.
    """
    from benchmarks.commands.capacity_study import Recorded, ServerOptions, Steady, model_capacity

    steady = {"context": context, "new": new, "answer": answer, "passes": passes, "every": every}
    given = [f"--{name}" for name, value in steady.items() if value is not None]
    if run is not None and given:
        raise ValueError(f"{', '.join(given)} and --run both say what the agents do: leave one out")
    if run is None and skill_seconds is not None:
        raise ValueError("--skill-seconds is for recorded plans: give --run too, or use --every")
    work: Recorded | Steady
    if run is not None:
        work = Recorded(run, 2.0 if skill_seconds is None else skill_seconds, protected)
    else:
        work = Steady(**(_DEFAULTS | {name: value for name, value in steady.items() if value is not None}), protected=protected)
    ratios = ("" if run is not None else "0.7,0.5") if keep is None else keep
    model_capacity(ServerOptions(cost, shape, model, kv_budget, p95, ratios, stages, batch, seed), work, out)
