"""How the agent plans: the options that ``erecap run`` and ``compare`` share."""

from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

import typer

from agents.guides import STYLES, PromptStyle
from agents.loop import AgentConfig
from benchmarks.commands.ranks import launched
from planner import HORIZONS, Horizon, ReplanPolicy, Sampling

Name = TypeVar("Name", bound=str)

_PANEL = "How the agent plans"
SWITCHES = {
    "failure": "on_failure",
    "surprise": "on_surprise",
    "goal_changed": "on_goal_change",
    "subgoal_reached": "on_subgoal_reached",
    "plan_end": "on_plan_end",
    "parse_error": "on_parse_error",
}
"""The reasons for replanning that can be turned off, each with its field of ``ReplanPolicy``."""

Reach = Annotated[
    str | None,
    typer.Option(
        "--horizon",
        help="How far a plan reaches: `subgoal`, or `task` for all open subgoals. By default as the suite says.",
        rich_help_panel=_PANEL,
    ),
]
Never = Annotated[
    str | None,
    typer.Option(
        "--no-replan-on",
        help=f"Reasons that do not make the agent replan, separated by commas: {', '.join(SWITCHES)}. Without plan_end an episode "
        "ends with its plan.",
        rich_help_panel=_PANEL,
    ),
]
Every = Annotated[
    int | None,
    typer.Option("--replan-every", help="Replan after this many skills in any case.", rich_help_panel=_PANEL),
]
MaxReplans = Annotated[int, typer.Option(help="Planner calls after which an episode ends.", rich_help_panel=_PANEL)]
MaxNewTokens = Annotated[int, typer.Option(help="Most tokens of an answer.", rich_help_panel=_PANEL)]
Observe = Annotated[
    bool,
    typer.Option(
        "--observe/--no-observe",
        help="Let backends with sessions take in the history while the agent acts. Plans are the same without.",
        rich_help_panel=_PANEL,
    ),
]
StartEarly = Annotated[
    bool,
    typer.Option(
        "--start-early",
        help="Carry out the first line of a plan while the planner writes the rest. Plans and outcomes are the same without. Not "
        "with --clock, not under torchrun.",
        rich_help_panel=_PANEL,
    ),
]
Style = Annotated[
    str,
    typer.Option(
        "--prompt",
        help="What the planner reads besides observations: `trained` for one that was trained on these worlds, `explained` adds "
        "what each skill does, `few-shot` a worked example of the expert as well.",
        rich_help_panel=_PANEL,
    ),
]
MAX_REPLANS, MAX_NEW_TOKENS = AgentConfig().max_replans, Sampling().max_new_tokens


@dataclass(frozen=True)
class AgentOptions:
    """The options as given; ``None`` where one was left out."""

    horizon: str | None = None
    no_replan_on: str | None = None
    replan_every: int | None = None
    max_replans: int = MAX_REPLANS
    max_new_tokens: int = MAX_NEW_TOKENS
    observe: bool = True
    start_early: bool = False
    prompt: str = "trained"

    @property
    def reach(self) -> Horizon | None:
        """How far plans reach; ``None`` for the suite's own horizon. Raises ``ValueError`` for an unknown horizon."""
        return None if self.horizon is None else _one_of(HORIZONS, "--horizon", self.horizon)

    @property
    def style(self) -> PromptStyle:
        """What the planner reads besides observations. Raises ``ValueError`` for an unknown style."""
        return _one_of(STYLES, "--prompt", self.prompt)

    @property
    def config(self) -> AgentConfig:
        """The agent's settings.

        Raises ``ValueError`` for an unknown reason, for numbers that are out of range, and for ``--start-early`` under torchrun.
        """
        if self.start_early and launched():
            raise ValueError(
                "--start-early under torchrun: the ranks answer in their main threads; leave it out, or run one process"
            )
        if self.max_replans < 1:
            raise ValueError(f"--max-replans {self.max_replans} must be at least 1: an episode needs a plan")
        off = [] if self.no_replan_on is None else [part.strip() for part in self.no_replan_on.split(",")]
        unknown = [reason for reason in off if reason not in SWITCHES]
        if unknown:
            raise ValueError(
                f"--no-replan-on {self.no_replan_on!r}: {unknown[0]!r} is no reason that can be turned off; choose from "
                f"{', '.join(SWITCHES)}"
            )
        policy = replace(ReplanPolicy(every=self.replan_every), **{SWITCHES[reason]: False for reason in off})
        return AgentConfig(
            policy,
            Sampling(self.max_new_tokens),
            self.max_replans,
            observe=self.observe,
            start_early=self.start_early,
            quote_unread=self.style == "trained",
        )

    @property
    def suffix(self) -> str:
        """What the name of a run directory says about these options; empty where all are at their defaults."""
        parts = [self.horizon or ""]
        parts += [f"no-{self.no_replan_on.replace(',', '-').replace(' ', '')}"] if self.no_replan_on else []
        parts += [f"every-{self.replan_every}"] if self.replan_every else []
        parts += [f"replans-{self.max_replans}"] if self.max_replans != MAX_REPLANS else []
        parts += [f"tokens-{self.max_new_tokens}"] if self.max_new_tokens != MAX_NEW_TOKENS else []
        parts += ["early"] if self.start_early else []
        parts += [self.prompt] if self.prompt != "trained" else []
        return "".join(f"-{part}" for part in parts if part)


def _one_of(known: tuple[Name, ...], option: str, text: str) -> Name:
    """Return the known name that ``text`` is. Raise ``ValueError`` for another one."""
    for name in known:
        if name == text:
            return name
    raise ValueError(f"{option} {text!r} is unknown: choose from {', '.join(known)}")
