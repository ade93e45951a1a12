"""Play every level of the minigrid package with the expert, and with minigrid's own bot where it ships one, and write a table.

Run it from the repository root: ``.venv/bin/python tools/survey_levels.py runs/levels.jsonl``. It plays what the file does not hold
yet, seed by seed, so it can be stopped and started again. ``--into docs/levels.md`` writes the table into the document instead.
"""

import argparse
import json
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import structlog
from minigrid.utils.baby_ai_bot import BabyAIBot

from agents import AgentConfig, EpisodeJob, ExpertBackend, run_episode
from envs import make_env

FIRST_SEED = 1_000_000
"""Seeds are counted from here, as in the suites."""
BOT_LIMIT_S = 10.0
"""Seconds of processor time after which an episode of the bot is stopped: on some levels it never comes to an end."""
MARK = "<!-- made by tools/survey_levels.py: what follows is replaced -->"
Row = dict[str, Any]
Player = Callable[[str, int], Row]


class BotHangsError(Exception):
    """The bot does not come to an end."""


BOT_FAULTS = (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError, BotHangsError)
"""What the bot raises where it cannot go on; ``info`` says which."""


def levels() -> list[str]:
    """List the ids of the package's environments."""
    return [name for name, spec in gym.registry.items() if str(spec.entry_point).startswith("minigrid.")]


def refusal(level: str) -> str:
    """Return why an agent cannot play a level; empty where it can."""
    try:
        make_env(level).close()
    except ValueError as error:
        return str(error)
    return ""


def play_expert(level: str, seed: int) -> Row:
    """Play one episode with the expert."""
    record = run_episode(EpisodeJob("expert", level, seed), ExpertBackend(), AgentConfig(), lambda _: None)
    return {"success": record.success, "steps": record.env_steps, "end": record.end}


def play_bot(level: str, seed: int) -> Row:
    """Play one episode with minigrid's bot; what it raises is its failure."""
    env = make_env(level)
    try:
        with cpu_limit(BOT_LIMIT_S):
            env.reset(seed=seed)
            return _play_bot(env)
    except BOT_FAULTS as error:
        return {"success": False, "steps": 0, "end": f"{type(error).__name__}: {error}"[:120]}
    finally:
        env.close()


def _play_bot(env: gym.Env[Any, Any]) -> Row:
    bot, action, steps = BabyAIBot(env.unwrapped), None, 0
    while True:
        action = bot.replan(action)
        _, reward, terminated, truncated, _ = env.step(action)
        steps += 1
        if terminated or truncated:
            return {"success": terminated and float(reward) > 0, "steps": steps, "end": "over" if terminated else "step_limit"}


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise ``BotHangsError`` in this thread after so many seconds of processor time."""

    def stop(signum: int, frame: object) -> None:
        raise BotHangsError(f"no end after {seconds:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def survey(path: Path, episodes: int, only: str, seconds: float) -> None:
    """Play what the file does not hold yet, and append a line for each episode."""
    known = {(row["level"], row["player"], row["seed"]) for row in read(path)}
    end = time.monotonic() + seconds
    path.parent.mkdir(parents=True, exist_ok=True)
    _cut_torn_tail(path)
    playable = [level for level in levels() if only in level and not refusal(level)]
    with path.open("a", encoding="utf-8") as file:
        for level, name, play, seed in _episodes(playable, episodes):
            if (level, name, seed) in known:
                continue
            if time.monotonic() > end:
                return
            file.write(json.dumps({"level": level, "player": name, "seed": seed, **play(level, seed)}) + "\n")
            file.flush()


def _episodes(playable: list[str], episodes: int) -> Iterator[tuple[str, str, Player, int]]:
    for name, play in {"expert": play_expert, "bot": play_bot}.items():
        for seed in range(FIRST_SEED, FIRST_SEED + episodes):
            for level in playable:
                if name == "expert" or level.startswith("BabyAI-"):  # the bot reads BabyAI's instructions
                    yield level, name, play, seed


def read(path: Path) -> list[Row]:
    """Read the episodes that the file holds; a last line that a kill has cut is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _cut_torn_tail(path: Path) -> None:
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def table(rows: list[Row]) -> str:
    """Write the table of the played levels, and the list of those that are refused."""
    lines = ["| level | expert | steps, median | BabyAIBot |", "|---|---|---|---|"]
    for level in dict.fromkeys(row["level"] for row in rows):
        expert, bot = ([r for r in rows if r["level"] == level and r["player"] == player] for player in ("expert", "bot"))
        steps = [r["steps"] for r in expert if r["success"]]
        median = f"{statistics.median(steps):g}" if steps else "-"
        lines.append(f"| {level} | {_share(expert)} | {median} | {_share(bot)} |")
    refused = [level for level in levels() if refusal(level)]
    return "\n".join([*lines, "", f"Refused, since they are not built on `RoomGrid` ({len(refused)}): {', '.join(refused)}.", ""])


def _share(rows: list[Row]) -> str:
    return f"{sum(r['success'] for r in rows)} of {len(rows)}" if rows else "-"


def write_into(document: Path, text: str) -> None:
    """Replace what follows the mark in a document."""
    head, mark, _ = document.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise SystemExit(f"{document} has no line {MARK!r}: add it where the table is to stand")
    document.write_text(f"{head}{mark}\n\n{text}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="results, one JSON line per episode")
    parser.add_argument("--episodes", type=int, default=40, help="seeds per level and player (default 40)")
    parser.add_argument("--only", default="", help="levels whose id contains this")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many seconds")
    parser.add_argument("--into", type=Path, help="play nothing; write the table into this document")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    if options.into is None:
        survey(options.file, options.episodes, options.only, options.seconds)
        sys.stdout.write(table(read(options.file)))
    else:
        write_into(options.into, table(read(options.file)))


if __name__ == "__main__":
    main()
