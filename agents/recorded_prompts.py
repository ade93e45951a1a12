"""Recorded prompts, rebuilt exactly.

The prompt of a replan is the episode's system text and the first ``history_entries`` entries of its transcript.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

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
    answer_tokens : int
        Length of the answer in tokens, its end token included; 0 where the recording backend counts none.
    """

    env_id: str
    seed: int
    replan: int
    prompt_tokens: int
    prompt: Prompt
    answer: str = ""
    answer_tokens: int = 0

    @cached_property
    def digest(self) -> str:
        """First 32 hex digits of the SHA-256 of what the prompt says and protects."""
        said = [(segment.role, segment.text, segment.protected) for segment in self.prompt.segments]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]

    @property
    def key(self) -> tuple[str, int, int, str]:
        """Environment, seed, replan and digest. Backends that play the same episode come to different prompts."""
        return self.env_id, self.seed, self.replan, self.digest


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
        prompt = replace(build_prompt(History(transcript[: call.history_entries]), episode.system), draft=call.draft)
        made = call.generation
        yield RecordedPrompt(episode.env_id, episode.seed, call.replan, made.prompt_tokens, prompt, made.text, made.new_tokens)


def by_episode(prompts: Iterable[RecordedPrompt]) -> list[list[RecordedPrompt]]:
    """Divide prompts by their episode; episodes and prompts stay in their order."""
    episodes: dict[tuple[str, int], list[RecordedPrompt]] = {}
    for prompt in prompts:
        episodes.setdefault((prompt.env_id, prompt.seed), []).append(prompt)
    return list(episodes.values())
