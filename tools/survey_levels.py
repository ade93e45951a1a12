"""Play every level of the minigrid package with the expert, and with minigrid's own bot where it ships one, and write a table.

Run it from the repository root: ``.venv/bin/python tools/survey_levels.py runs/levels.jsonl --episodes 40``. It plays what the file
does not hold yet, so it can be stopped and started again; ``--table`` prints the table of what the file holds and plays nothing.
"""

import argparse
import json
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym
from minigrid.utils.baby_ai_bot import BabyAIBot

from agents import AgentConfig, EpisodeJob, ExpertBackend, run_episode
from envs import make_env

FIRST_SEED = 1_000_000
"""Seeds are counted from here, as in the suites."""
LIMIT_S = 60
"""Seconds after which a bot that hangs is stopped."""
NO_BOT = "no bot: it reads BabyAI's instructions"


class TooSlowError(Exception):
    """The bot does not come to an end."""


def levels() -> list[str]:
    """List the ids of the package's environments, those of the WFC family too."""
    return [name for name, spec in gym.registry.items() if str(spec.entry_point).startswith("minigrid.")]


def refusal(level: str) -> str:
    """Return why the adapter refuses a level; empty where it takes it."""
    try:
        make_env(level).close()
    except (ValueError, ImportError) as error:
        return str(error)
    return ""


def play_expert(level: str, seed: int) -> dict[str, Any]:
    """Play one episode with the expert."""
    record = run_episode(EpisodeJob("expert", level, seed), ExpertBackend(), AgentConfig(), lambda _: None)
    return {"success": record.success, "steps": record.env_steps, "end": record.end}


def play_bot(level: str, seed: int) -> dict[str, Any]:
    """Play one episode with minigrid's bot; what it raises is its failure."""
    env = make_env(level)
    try:
        with time_limit(LIMIT_S):
            env.reset(seed=seed)
            return _play_bot(env)
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError, TooSlowError) as error:
        return {"success": False, "steps": 0, "end": f"{type(error).__name__}: {error}"[:120]}
    finally:
        env.close()


def _play_bot(env: gym.Env[Any, Any]) -> dict[str, Any]:
    bot, action, steps = BabyAIBot(env.unwrapped), None, 0
    while True:
        action = bot.replan(action)
        _, reward, terminated, truncated, _ = env.step(action)
        steps += 1
        if terminated or truncated:
            return {"success": terminated and float(reward) > 0, "steps": steps, "end": "over" if terminated else "step_limit"}


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise ``TooSlowError`` in this thread after so many seconds."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooSlowError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def survey(path: Path, episodes: int, wanted: str, seconds: float) -> None:
    """Play what the file does not hold yet, and append a line for each episode."""
    known = {(row["level"], row["player"], row["seed"]) for row in rows(path)}
    end = time.monotonic() + seconds
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for level in (name for name in levels() if wanted in name and not refusal(name)):
            for player, play in _players(level).items():
                for seed in range(FIRST_SEED, FIRST_SEED + episodes):
                    if (level, player, seed) in known:
                        continue
                    if time.monotonic() > end:
                        return
                    row = {"level": level, "player": player, "seed": seed, **play(level, seed)}
                    file.write(json.dumps(row) + "\n")
                    file.flush()


def _players(level: str) -> dict[str, Any]:
    return {"expert": play_expert, **({"bot": play_bot} if level.startswith("BabyAI-") else {})}


def rows(path: Path) -> list[dict[str, Any]]:
    """Read the episodes that the file holds."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    survey(options.file, options.episodes, options.only, options.seconds)


if __name__ == "__main__":
    main()
