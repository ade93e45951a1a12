"""A run of 8 episodes with two workers, which hangs from the episode on that the command line names: ``FOLDER PIPE SEED``."""

import sys
from pathlib import Path

import fake_play

from agents import AgentConfig, EpisodeJob, LocalPool, run_jobs
from agents.episode_log import EpisodeLog


def jobs() -> list[EpisodeJob]:
    return [EpisodeJob("baseline", "fake", seed) for seed in range(8)]


def main(folder: str, pipe: str, hang_from: str) -> None:
    episode = fake_play.Telling(Path(pipe), int(hang_from))
    with EpisodeLog(Path(folder) / "steps.jsonl") as log:
        run_jobs(jobs(), fake_play.fake_backend, log, AgentConfig(), LocalPool(2), episode=episode)


if __name__ == "__main__":
    main(*sys.argv[1:])
