"""Recorded prompts, rebuilt exactly.

The prompt of a replan is the episode's system text and the first ``history_entries`` entries of its transcript.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agents.records import EpisodeRecord, PlannerCall
from planner import Entry, History, Prompt, build_prompt


@dataclass(frozen=True)
class RecordedPrompt:
    """The prompt of one recorded replan.

    Attributes
    ----------
    env_id : str
        Gymnasium id of the environment.
    seed : int
        Seed of the episode.
    replan : int
        Number of the replan within its episode, from 0.
    prompt_tokens : int
        Length of the prompt in tokens, as the recording backend counted it.
    prompt : Prompt
        The prompt itself.
    answer : str
        What the recording backend answered.
    """

    env_id: str
    seed: int
    replan: int
    prompt_tokens: int
    prompt: Prompt
    answer: str = ""

    @property
    def key(self) -> tuple[str, int, int]:
        """Environment, seed and replan. They identify the prompt within the records of one backend."""
        return self.env_id, self.seed, self.replan


def rebuild_prompts(
    episode: EpisodeRecord, transcript: tuple[Entry, ...], calls: Iterable[PlannerCall]
) -> Iterator[RecordedPrompt]:
    """Rebuild the prompts of one recorded episode.

    Parameters
    ----------
    episode : EpisodeRecord
        The episode.
    transcript : tuple of Entry
        All entries of its history, oldest first.
    calls : iterable of PlannerCall
        Its replans.

    Yields
    ------
    RecordedPrompt
        One per replan, in the order of ``calls``.
    """
    for call in calls:
        prompt = build_prompt(History(transcript[: call.history_entries]), episode.system)
        made = call.generation
        yield RecordedPrompt(episode.env_id, episode.seed, call.replan, made.prompt_tokens, prompt, made.text)
