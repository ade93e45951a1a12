"""How far a plan reaches."""

from typing import Literal, get_args

Horizon = Literal["subgoal", "task"]
"""``subgoal``: a plan covers the open subgoal. ``task``: all open subgoals, up to where something must be looked for."""
HORIZONS: tuple[Horizon, ...] = get_args(Horizon)
"""All horizons."""
