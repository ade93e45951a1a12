"""The agent's loop: observe, replan when the policy says so, carry out the plan line by line, record.

One path for every backend and every world. What happens in the world depends on the agent's actions; with a clock
(``AgentConfig.clock``) also on how long it thought.
"""

import time

import structlog

from agents.episode import Episode
from agents.job import EpisodeJob
from agents.protocols import AgentConfig, FrameSink, Sink, WorldBackend
from agents.records import End, EpisodeRecord
from planner import PlannerBackend, PromptTooLongError, ReplanReason

__all__ = ["AgentConfig", "End", "Episode", "FrameSink", "Sink", "WorldBackend", "run_episode"]

log = structlog.get_logger(__name__)


def run_episode(
    job: EpisodeJob,
    backend: PlannerBackend | WorldBackend,
    config: AgentConfig,
    sink: Sink,
    frames: FrameSink | None = None,
) -> EpisodeRecord:
    """Play one episode.

    Parameters
    ----------
    job
        The episode to play.
    backend
        The planner.
    config
        Settings of the agent.
    sink
        Called with each record as soon as there is one; the ``EpisodeRecord`` comes last.
    frames
        Called with a picture of the world at the start and after each environment step; a ``MomentSink`` is told more.

    Returns
    -------
    EpisodeRecord
        The last record.

    Raises
    ------
    ValueError
        For an environment that is unknown or cannot be played, or that cannot be drawn although there are ``frames``. What backend
        and environment raise is raised too.
    """
    begin = time.perf_counter()
    episode = Episode(job, backend, config, sink, frames)
    try:
        end = _play(episode)
    finally:
        episode.close()
    record = episode.record(end, time.perf_counter() - begin)
    sink(record)
    return record


def _play(episode: Episode) -> End:
    """Replan and act until the episode ends."""
    while episode.end is None:
        reason = episode.reason()
        if reason is not None and episode.replans >= episode.config.max_replans:
            episode.end = "replan_limit"
        elif reason is not None:
            thought = episode.thinking_steps
            _replan(episode, reason)
            if episode.thinking_steps > thought:
                continue  # the world has moved on: ask the policy again before the first line of the plan
        elif not episode.plan:
            episode.end = "plan_end"
        if episode.plan and (episode.end is None or episode.plan.ahead is not None):
            episode.act()
    return episode.end


def _replan(episode: Episode, reason: ReplanReason) -> None:
    """Replan; a history that has outgrown the backend's context ends the episode, not the run."""
    try:
        episode.replan(reason)
    except PromptTooLongError as error:
        log.warning("the history has outgrown the backend", env_id=episode.job.env_id, seed=episode.job.seed, reason=str(error))
        episode.end = "context_limit"
